"""Why a port cannot be bound: the program that uses it, and the remedy for each system, in one sentence.

The part for macOS and Windows is written from psutil's documentation; it was never run on macOS.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

# DNS servers that run as a systemd service of their own: stopping that service frees the port and harms nothing else.
_DNS_SERVERS = ("dnsmasq", "named", "unbound", "pdns", "knot-resolver", "kresd", "coredns", "adguardhome", "pihole-ftl")
_EVERYWHERE = " at every address"
_WITHOUT_PORT = "use `vmdns hosts --keep`, which needs no port"
_FIRST_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def explain_bind_error(error: OSError, address: str, port: int) -> str:
    """Why an address and port could not be bound, and the remedy. daemon/listen_addresses.py tries again."""
    what = f"{address} port {port}"
    refused = error.errno in (errno.EACCES, errno.EPERM) or getattr(error, "winerror", 0) == 10013
    in_use = error.errno == errno.EADDRINUSE or getattr(error, "winerror", 0) == 10048
    # Windows reports WSAEACCES (10013) too where another program has the port exclusively (SO_EXCLUSIVEADDRUSE).
    holder = find_holder(address, port) if in_use or (refused and sys.platform == "win32") else ""
    if in_use and not holder and sys.platform == "darwin":  # processes of other users show no sockets there
        holder = "mDNSResponder, most likely (`sudo lsof -nP -i :53` names it)" if port == 53 else ""
    if holder or in_use:
        return f"{what} is held by {holder or 'another program'}: {_release(holder, sys.platform)}"
    if refused:
        return f"{what} may not be bound: {_missing_right(port, sys.platform)}"
    if error.errno == errno.EADDRNOTAVAIL or getattr(error, "winerror", 0) == 10049:
        return f"{what} cannot be bound: this host has no address {address}"
    return f"{what} cannot be bound: {error.strerror or error}"


def _missing_right(port: int, platform: str) -> str:
    if platform == "linux":
        if port >= _first_unprivileged_port():
            return "a security policy forbids it (SELinux, AppArmor, or a setting of the service that started vmdns)"
        return (
            f"you are not allowed to use ports below {_first_unprivileged_port()}; "
            f"`sudo sysctl -w net.ipv4.ip_unprivileged_port_start={port}` allows it until the next reboot"
        )
    if platform == "darwin":
        return (
            "macOS lets only root use a port below 1024 at a single address; "
            'without bind = "address" in vmdns.toml, vmdns binds it at all addresses at once'
        )
    # Windows has no call that lists its excluded ranges, so this is concluded from the error and that nobody is seen.
    return (
        "no program is seen there, so most likely Windows reserves the port, as Hyper-V, WSL and Docker have it do "
        f"(`netsh int ipv4 show excludedportrange protocol=udp` lists such ports); {_WITHOUT_PORT}"
    )


def _first_unprivileged_port() -> int:
    """The first unprivileged port (ip-sysctl: ip_unprivileged_port_start); 1024 if that cannot be read."""
    try:
        return int(_FIRST_PORT.read_text())
    except (OSError, ValueError):
        return 1024


def _release(holder: str, platform: str) -> str:
    """How to avoid or free the port of `holder` (from `find_holder`): the least drastic remedy first."""
    elsewhere = "choose another address with --listen"
    if platform == "linux":
        found = re.search(r"\(pid (\d+)\)$", holder)
        unit, user = find_unit(_cgroup(int(found[1]))) if found else ("", False)
        if unit and user:
            return f"{elsewhere}, or `systemctl --user stop {unit}`"
        if unit.lower().replace("_", "-").startswith(_DNS_SERVERS):
            return f"{elsewhere}, or `sudo systemctl stop {unit}`"
        if unit:  # systemd-resolved, libvirt, NetworkManager, Docker: the computer needs it
            return f"it belongs to {unit}; {elsewhere}, or stop that service if nothing needs it"
    if platform == "win32":
        everywhere = holder.endswith(_EVERYWHERE)
        if "SharedAccess" in holder:
            who = "Internet Connection Sharing, which WSL, Hyper-V and the mobile hotspot use"
            return f"it is {who}, and which restarts by itself; " + (
                _WITHOUT_PORT if everywhere else f"{elsewhere}, or {_WITHOUT_PORT}"
            )
        return f"stop it, or {_WITHOUT_PORT}" if everywhere else f"{elsewhere}, or stop it"
    if platform == "darwin" and holder.startswith("mDNSResponder"):
        return (
            "it answers guests of vmnet's shared networks (UTM, multipass, Lima, Apple container) or Internet Sharing, "
            "and frees the port when those end; until then guests have multicast DNS, and this computer another port "
            "(`vmdns host`)"
        )
    return f"{elsewhere}, or stop it"


def find_unit(cgroup: str) -> tuple[str, bool]:
    """The systemd service that a process belongs to, from its /proc/PID/cgroup (cgroups(7)), and whether the user's own
    systemd runs it; '' for a process of a log-in session or a container."""
    for line in cgroup.splitlines():
        parts = line.partition("::")[2].split("/")
        # Below a service there may be cgroups that the service made itself.
        for at in range(len(parts) - 1, 0, -1):
            if parts[at].endswith(".scope"):
                return "", False
            if parts[at].endswith(".service") and not parts[at].startswith("user@"):
                return parts[at], any(part.startswith("user@") for part in parts[:at])
    return "", False


def _cgroup(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


def find_holder(address: str, port: int) -> str:
    """The program that listens there, as `name (pid N)`, on Windows with its services and whether it listens at every
    address; '' if unknown."""
    try:
        return _find_linux(address, port) if sys.platform == "linux" else _find_by_psutil(address, port)
    except (OSError, ValueError):
        return ""


def _find_by_psutil(address: str, port: int) -> str:
    import psutil

    own = address.partition("%")[0]
    for pid, one in _connections():
        listening = one.type == socket.SOCK_DGRAM or one.status == psutil.CONN_LISTEN
        if pid and listening and one.laddr and one.laddr.port == port and one.laddr.ip in (own, "0.0.0.0", "::"):
            try:
                found = f"{psutil.Process(pid).name()} (pid {pid}"
            except psutil.Error:  # it just ended
                continue
            if sys.platform != "win32":
                return f"{found})"
            return f"{found}{_services(pid)}){'' if one.laddr.ip == own else _EVERYWHERE}"
    return ""


def _connections() -> Iterator[tuple[int, Any]]:
    """The processes with sockets, and each socket; of macOS only those that this user may see."""
    import psutil

    if sys.platform == "win32":  # one call for all processes
        yield from ((one.pid or 0, one) for one in psutil.net_connections("inet"))
        return
    for process in psutil.process_iter(["net_connections"]):
        yield from ((process.pid, one) for one in process.info["net_connections"] or ())


def _services(pid: int) -> str:
    """The Windows services in a process, after a colon."""
    from vmdns.windows.services import services_of_process

    try:
        names = services_of_process(pid)
    except OSError:
        return ""
    return f": {', '.join(names)}" if names else ""


def _find_linux(address: str, port: int) -> str:
    inodes: dict[str, int] = {}
    for name in ("udp", "udp6", "tcp", "tcp6"):
        try:
            table = Path("/proc/self/net", name).read_text()  # /proc/net is not there for a service that is confined
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for inode, uid in parse_proc_net(table, port, address, listening=name.startswith("tcp")).items():
            inodes[f"socket:[{inode}]"] = uid
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            for handle in (process / "fd").iterdir():
                if os.readlink(handle) in inodes:
                    return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:  # another user's, or it just ended
            continue
    for uid in inodes.values():
        return f"a program of {_user(uid)} (`sudo ss -lntup 'sport = :{port}'` names it)"
    return ""


def _user(uid: int) -> str:
    import pwd

    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return "another user"


def parse_proc_net(text: str, port: int, address: str, *, listening: bool) -> dict[str, int]:
    """The inodes, with the owner's user id, of sockets that conflict with this address and port in a table of /proc/net
    (proc(5)); of TCP only those that listen."""
    # Addresses are written in hexadecimal: each 32 bits as a number of this machine.
    packed = ip_address(address.partition("%")[0]).packed
    words = (int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, len(packed), 4))
    conflicts = {f"{address}:{port:04X}" for address in ("".join(f"{word:08X}" for word in words), "0" * 8, "0" * 32)}
    rows = [row for row in map(str.split, text.splitlines()[1:]) if len(row) > 9 and row[1] in conflicts]
    return {row[9]: int(row[7]) for row in rows if not listening or row[3] == "0A"}
