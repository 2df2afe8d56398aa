"""Who holds a port, and what lets vmdns have it: one sentence with the remedy for each system.

The Linux part runs in the tests; those of macOS and Windows are written as their tools' documentation says and were
not run there: only their parsers are tested, with recorded output.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path


def why_not(error: OSError, address: str, port: int) -> str:
    """Why an address and port could not be bound, and the exact remedy."""
    what = f"{address} port {port}"
    if error.errno in (errno.EACCES, errno.EPERM) or getattr(error, "winerror", 0) == 10013:
        return f"{what} may not be bound: {_missing_right(port, sys.platform)}"
    if error.errno == errno.EADDRINUSE or getattr(error, "winerror", 0) == 10048:
        holder = holder_of(address, port)
        return f"{what} is held by {holder or 'another program'}: {_release(holder, sys.platform)}"
    if error.errno == errno.EADDRNOTAVAIL or getattr(error, "winerror", 0) == 10049:
        return f"{what} cannot be bound: this host has no address {address}"
    return f"{what} cannot be bound: {error.strerror or error}"


def _missing_right(port: int, platform: str) -> str:
    if platform == "linux":
        return (
            f"you are not allowed to use ports below 1024; "
            f"`sudo sysctl -w net.ipv4.ip_unprivileged_port_start={port}` allows it until the next reboot"
        )
    if platform == "darwin":
        return "ports below 1024 need root on this address; start vmdns with sudo -E, or listen elsewhere with --listen"
    return "Windows keeps this port back; see `netsh int ipv4 show excludedportrange protocol=udp`"


def _release(holder: str, platform: str) -> str:
    name = holder.partition(" ")[0]
    if name == "systemd-resolved" or name == "systemd-resolve":
        return "choose another address with --listen, or set DNSStubListener=no in /etc/systemd/resolved.conf"
    if platform == "linux" and name in ("dnsmasq", "named", "unbound", "pdns_recursor", "knot-resolver", "kresd"):
        return f"`sudo systemctl stop {name}`, or choose another address with --listen"
    if platform == "win32" and name.lower().startswith("svchost"):
        return "Internet Connection Sharing often holds it: `Stop-Service SharedAccess`, or use --listen"
    return "stop it, or choose another address with --listen"


def holder_of(address: str, port: int) -> str:
    """The program that listens there, as `name (pid N)`; '' where that cannot be found out."""
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
    return run.stdout.decode(errors="replace")


def parse_lsof(text: str) -> str:
    """The first process in the output of `lsof -F pc`."""
    pid, name = re.search(r"^p(\d+)$", text, re.M), re.search(r"^c(.+)$", text, re.M)
    return f"{name[1]} (pid {pid[1]})" if pid and name else ""


def parse_netstat(text: str, port: int, address: str = "") -> str:
    """The process id of the first UDP or listening TCP line of `netstat -ano` with this local port.

    With an address, only lines that are in its way count. What stands for LISTENING is translated on other Windows;
    a socket that listens has a foreign port of 0.
    """
    for line in text.splitlines():
        words = line.split()
        if len(words) < 4 or words[0] not in ("UDP", "TCP") or not words[-1].isdigit():
            continue
        local, _, number = words[1].rpartition(":")
        hinders = not address or local.strip("[]") in (address, "0.0.0.0", "::")
        if number == str(port) and hinders and (words[0] == "UDP" or words[2].endswith(":0")):
            return words[-1]
    return ""


def parse_tasklist(text: str) -> str:
    """The process in the output of `tasklist /fo csv /nh`."""
    match = re.search(r'^"([^"]+)","(\d+)"', text, re.M)
    return f"{match[1]} (pid {match[2]})" if match else ""


def _linux(address: str, port: int) -> str:
    inodes = set()
    for name in ("udp", "udp6", "tcp", "tcp6"):
        try:
            table = Path("/proc/self/net", name).read_text()  # /proc/net is not there for a service that is confined
        except FileNotFoundError:  # a kernel without IPv6
            continue
        for inode in parse_proc_net(table, port, address, listening=name.startswith("tcp")):
            inodes.add(f"socket:[{inode}]")
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            for handle in (process / "fd").iterdir():
                if os.readlink(handle) in inodes:
                    return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:  # another user's, or it just ended
            continue
    return f"a program of another user (`sudo ss -lnup 'sport = :{port}'` names it)" if inodes else ""


def parse_proc_net(text: str, port: int, address: str = "", *, listening: bool) -> list[str]:
    """The inodes of sockets with this local port in a table of /proc/net (proc(5)); of TCP only those that listen.

    With an address, only sockets that are in its way count: on it, or on every address.
    """
    found = []
    for line in text.splitlines()[1:]:
        words = line.split()
        if len(words) <= 9:
            continue
        local, _, number = words[1].rpartition(":")
        hinders = not address or local in (_proc_address(address), "0" * 8, "0" * 32)
        if int(number, 16) == port and hinders and (not listening or words[3] == "0A"):
            found.append(words[9])
    return found


def _proc_address(address: str) -> str:
    """An address as /proc/net writes it: each 32 bits as a number of this machine."""
    packed = ip_address(address.partition("%")[0]).packed
    return "".join(f"{int.from_bytes(packed[at : at + 4], sys.byteorder):08X}" for at in range(0, len(packed), 4))
