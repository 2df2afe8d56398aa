"""Why a port cannot be bound: the program that uses it, and the remedy for each system, in one sentence.

The parts for macOS and Windows are written from their tools' documentation and were never run; their parsers are tested
with recorded output.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path

from vmdns.state.external_data import decode_console

# DNS servers that run as a systemd service of their own: stopping that service frees the port and harms nothing else.
_DNS_SERVERS = ("dnsmasq", "named", "unbound", "pdns", "knot-resolver", "kresd", "coredns", "adguardhome", "pihole-ftl")
_FIRST_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def explain_bind_error(error: OSError, address: str, port: int) -> str:
    """Why an address and port could not be bound, and the remedy. daemon/listen_addresses.py tries again."""
    what = f"{address} port {port}"
    refused = error.errno in (errno.EACCES, errno.EPERM) or getattr(error, "winerror", 0) == 10013
    in_use = error.errno == errno.EADDRINUSE or getattr(error, "winerror", 0) == 10048
    # Windows reports WSAEACCES (10013) too where another program has the port exclusively (SO_EXCLUSIVEADDRUSE).
    holder = find_holder(address, port) if in_use or (refused and sys.platform == "win32") else ""
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
            "this computer can use another port (`vmdns host`), guests cannot"
        )
    return "Windows reserves it: `netsh int ipv4 show excludedportrange protocol=udp` lists the reserved ports"


def _first_unprivileged_port() -> int:
    """The first unprivileged port (ip-sysctl: ip_unprivileged_port_start); 1024 if that cannot be read."""
    try:
        return int(_FIRST_PORT.read_text())
    except (OSError, ValueError):
        return 1024


def _release(holder: str, platform: str) -> str:
    """How to avoid or free the port of `holder` (from `find_holder`): the least drastic remedy first."""
    name = holder.partition(" ")[0].lower()
    elsewhere = "choose another address with --listen"
    if platform == "linux":
        found = re.search(r"\(pid (\d+)\)$", holder)
        unit, user = systemd_unit(_cgroup(int(found[1]))) if found else ("", False)
        if unit and user:
            return f"{elsewhere}, or `systemctl --user stop {unit}`"
        if unit.lower().replace("_", "-").startswith(_DNS_SERVERS):
            return f"{elsewhere}, or `sudo systemctl stop {unit}`"
        if unit:  # systemd-resolved, libvirt, NetworkManager, Docker: the computer needs it
            return f"it belongs to {unit}; {elsewhere}, or stop that service if nothing needs it"
    if platform == "win32" and name.startswith("svchost"):
        return (
            f"usually Internet Connection Sharing, which WSL, Hyper-V and the mobile hotspot use; {elsewhere}, or end "
            "those and, as administrator, `Stop-Service SharedAccess`"
        )
    return f"{elsewhere}, or stop it"


def systemd_unit(cgroup: str) -> tuple[str, bool]:
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
    """The program that listens there, as `name (pid N)`; '' if unknown."""
    try:
        if sys.platform == "linux":
            return _linux(address, port)
        if sys.platform == "win32":
            pid = parse_netstat(_output("netstat", "-ano"), port, address)
            return parse_tasklist(_output("tasklist", "/fi", f"PID eq {pid}", "/fo", "csv", "/nh")) if pid else ""
        return parse_lsof(_output("lsof", "-nP", f"-iUDP:{port}", f"-iTCP:{port}", "-F", "pc"))
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""


def _output(*command: str) -> str:
    run = subprocess.run(command, capture_output=True, timeout=5, stdin=subprocess.DEVNULL, check=False)
    return decode_console(run.stdout, sys.platform)


def parse_lsof(text: str) -> str:
    """The first process in the output of `lsof -F pc`."""
    pid, name = re.search(r"^p(\d+)$", text, re.M), re.search(r"^c(.+)$", text, re.M)
    return f"{name[1]} (pid {pid[1]})" if pid and name else ""


def parse_netstat(text: str, port: int, address: str = "") -> str:
    """The process id of the first UDP or listening TCP line of `netstat -ano` with this local port.

    With an address, only lines that conflict with it count. LISTENING is translated; a listening socket has a
    foreign port of 0.
    """
    for line in text.splitlines():
        words = line.split()
        if len(words) < 4 or words[0] not in ("UDP", "TCP") or not words[-1].isdigit():
            continue
        local, _, number = words[1].rpartition(":")
        conflicts = not address or local.strip("[]") in (address, "0.0.0.0", "::")
        if number == str(port) and conflicts and (words[0] == "UDP" or words[2].endswith(":0")):
            return words[-1]
    return ""


def parse_tasklist(text: str) -> str:
    """The process in the output of `tasklist /fo csv /nh`."""
    match = re.search(r'^"([^"]+)","(\d+)"', text, re.M)
    return f"{match[1]} (pid {match[2]})" if match else ""


def _linux(address: str, port: int) -> str:
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


def parse_proc_net(text: str, port: int, address: str = "", *, listening: bool) -> dict[str, int]:
    """The inodes, with the owner's user id, of sockets with this local port in a table of /proc/net (proc(5)); of TCP
    only those that listen.

    With an address, only sockets that conflict with it count: on it, or on every address.
    """
    found = {}
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) <= 9:
            continue
        local, _, number = words[1].rpartition(":")
        conflicts = not address or local in (_proc_address(address), "0" * 8, "0" * 32)
        if int(number, 16) == port and conflicts and (not listening or words[3] == "0A"):
            found[words[9]] = int(words[7])
    return found


def _proc_address(address: str) -> str:
    """An address as /proc/net writes it: each 32 bits as a number of this machine."""
    packed = ip_address(address.partition("%")[0]).packed
    return "".join(f"{int.from_bytes(packed[at : at + 4], sys.byteorder):08X}" for at in range(0, len(packed), 4))
