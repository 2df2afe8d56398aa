"""Who holds a port. Linux for real; psutil, for the other systems, is simulated."""

from __future__ import annotations

import errno
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vmdns.host import port_holder as port
from vmdns.host.port_holder import explain_bind_error, find_holder, find_unit, parse_proc_net

# Of a machine with systemd-resolved (101) and libvirt's dnsmasq (102), an established connection, and IPv6.
UDP = """   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer
  289: 017AA8C0:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 26001 2 0000000000000000 0
  290: 3500007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000   101        0 22001 2 0000000000000000 0
  291: 00000000:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000   104        0 23001 2 0000000000000000 0
"""
TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 3500007F:0035 00000000:0000 0A 00000000:00000000 00:00000000 00000000   101        0 22002 1 0000000000000000 100
   1: 3500007F:0035 0100007F:C350 01 00000000:00000000 00:00000000 00000000   101        0 22003 1 0000000000000000 20
   2: 3500007F:0016 00000000:0000 0A
"""
TCP6 = """  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when
   0: 00000000000000000000000001000000:0035 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31001 1
   1: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31002 1
"""  # noqa: E501


@pytest.mark.skipif(sys.byteorder != "little", reason="the tables are of a little-endian machine")
@pytest.mark.parametrize(
    ("text", "number", "address", "listening", "inodes"),
    [
        (UDP, 53, "127.0.0.53", False, ["22001"]),
        (UDP, 53, "192.168.122.1", False, ["26001"]),
        (UDP, 53, "127.0.0.1", False, []),
        (UDP, 5353, "127.0.0.1", False, ["23001"]),  # 0.0.0.0 is in everybody's way
        (TCP, 53, "127.0.0.53", True, ["22002"]),
        (TCP6, 53, "::1", True, ["31001"]),
        (TCP6, 80, "127.0.0.1", True, ["31002"]),  # [::] often is too
        ("", 53, "::1", False, []),
    ],
)
def test_proc_net(text: str, number: int, address: str, listening: bool, inodes: list[str]) -> None:
    assert list(parse_proc_net(text, number, address, listening=listening)) == inodes


linux = pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")


@linux
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_a_socket_of_our_own_is_found(kind: int) -> None:
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            one.listen()
        number = one.getsockname()[1]
        name = Path("/proc/self/comm").read_text().strip()
        assert find_holder("127.0.0.1", number) == f"{name} (pid {os.getpid()})"
        with socket.socket(socket.AF_INET, kind) as other, pytest.raises(OSError) as caught:
            other.bind(("127.0.0.1", number))
        text = explain_bind_error(caught.value, "127.0.0.1", number)
        assert text.startswith(f"127.0.0.1 port {number} is held by {name} (pid {os.getpid()}): ")
        assert "--listen" in text


@linux
def test_a_kernel_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(file: Path, *how: str) -> str:
        return open(file.with_name("none") if file.name.endswith("6") else file).read()

    monkeypatch.setattr(Path, "read_text", read)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        assert find_holder(*one.getsockname()).endswith(f"(pid {os.getpid()})")


DNSMASQ = "0::/system.slice/dnsmasq.service\n"
LIBVIRT = "0::/system.slice/libvirtd.service\n"
OWN = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/coredns.service\n"
SHELL = "0::/user.slice/user-1000.slice/session-2.scope\n"
IN_USE, REFUSED = errno.EADDRINUSE, errno.EACCES


@pytest.mark.parametrize(
    ("cgroup", "unit", "user"),
    [
        (DNSMASQ, "dnsmasq.service", False),
        ("0::/system.slice/system-kresd.slice/kresd@1.service\n", "kresd@1.service", False),
        ("0::/system.slice/docker.service/inner\n", "docker.service", False),
        (OWN, "coredns.service", True),
        (SHELL, "", False),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/vte-spawn-7.scope\n", "", False),
        ("0::/system.slice/docker-0a1b.scope\n", "", False),
        ("4:memory:/x\n0::/\n", "", False),
        ("", "", False),
    ],
)
def test_the_service_of_a_process(cgroup: str, unit: str, user: bool) -> None:
    assert find_unit(cgroup) == (unit, user)


@pytest.mark.parametrize(
    ("system", "error", "holder", "cgroup", "expected"),
    [
        ("linux", REFUSED, "", "",
         "127.0.0.1 port 53 may not be bound: you are not allowed to use ports below 1024; "
         "`sudo sysctl -w net.ipv4.ip_unprivileged_port_start=53` allows it until the next reboot"),
        ("darwin", REFUSED, "", "", "macOS lets only root use a port below 1024 at a single address"),
        ("win32", REFUSED, "", "",
         "(`netsh int ipv4 show excludedportrange protocol=udp` lists such ports); use `vmdns hosts --keep`"),
        ("win32", REFUSED, "dns.exe (pid 4)", "", "127.0.0.1 port 53 is held by dns.exe (pid 4): choose another"),
        ("linux", IN_USE, "systemd-resolve (pid 9)", "0::/system.slice/systemd-resolved.service\n",
         "127.0.0.1 port 53 is held by systemd-resolve (pid 9): it belongs to systemd-resolved.service; choose another "
         "address with --listen"),
        ("linux", IN_USE, "dnsmasq (pid 9)", DNSMASQ,
         ": choose another address with --listen, or `sudo systemctl stop dnsmasq.service`"),
        ("linux", IN_USE, "named (pid 9)", "0::/system.slice/named.service\n", "`sudo systemctl stop named.service`"),
        ("linux", IN_USE, "dnsmasq (pid 9)", LIBVIRT, ": it belongs to libvirtd.service; choose another address"),
        ("linux", IN_USE, "coredns (pid 9)", OWN, "`systemctl --user stop coredns.service`"),
        ("linux", IN_USE, "dnsmasq (pid 9)", SHELL, ": choose another address with --listen, or stop it"),
        ("linux", IN_USE, "", "", "is held by another program: choose another"),
        ("win32", IN_USE, "svchost.exe (pid 4: SharedAccess)", "",
         "which restarts by itself; choose another address with --listen, or use `vmdns hosts --keep`"),
        ("win32", REFUSED, "svchost.exe (pid 4: SharedAccess) at every address", "",
         "53 is held by svchost.exe (pid 4: SharedAccess) at every address: it is Internet Connection Sharing, which "
         "WSL, Hyper-V and the mobile hotspot use, and which restarts by itself; use `vmdns hosts --keep`, which needs "
         "no port"),
        ("win32", IN_USE, "dns.exe (pid 4) at every address", "", ": stop it, or use `vmdns hosts --keep`"),
        ("darwin", IN_USE, "", "", "held by mDNSResponder, most likely (`sudo lsof -nP -i :53` names it): it answers"),
        ("darwin", IN_USE, "mDNSResponder (pid 4)", "", "until then guests have multicast DNS"),
        ("darwin", IN_USE, "dnsmasq (pid 4)", "", ": choose another address with --listen, or stop it"),
        ("linux", errno.EADDRNOTAVAIL, "", "", "53 cannot be bound: this host has no address 127.0.0.1"),
        ("linux", errno.ENOBUFS, "", "", "127.0.0.1 port 53 cannot be bound: as the system says"),
    ],
)  # fmt: skip
def test_the_remedy(
    monkeypatch: pytest.MonkeyPatch, system: str, error: int, holder: str, cgroup: str, expected: str
) -> None:
    monkeypatch.setattr(port.sys, "platform", system)
    monkeypatch.setattr(port, "find_holder", lambda *_: holder)
    monkeypatch.setattr(port, "_cgroup", lambda pid: cgroup)
    monkeypatch.setattr(port, "_first_unprivileged_port", lambda: 1024)
    assert expected in explain_bind_error(OSError(error, "as the system says"), "127.0.0.1", 53)


def test_the_command_that_changes_nothing_is_not_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where every user may use the port already, something else forbids it."""
    monkeypatch.setattr(port.sys, "platform", "linux")
    monkeypatch.setattr(port, "_FIRST_PORT", tmp_path / "first")
    for first, named in (("53\n", False), ("54\n", True), ("", True)):
        (tmp_path / "first").write_text(first)
        text = explain_bind_error(OSError(errno.EACCES, "x"), "127.0.0.1", 53)
        assert ("sysctl" in text) is named
        assert ("security policy" in text) is not named


@linux
def test_a_program_of_another_user_is_named_by_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port.Path, "iterdir", lambda self: iter(()))  # as where no other user's process can be seen
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        number = one.getsockname()[1]
        import pwd

        user = pwd.getpwuid(os.geteuid()).pw_name
        expected = f"a program of user {user} (`sudo ss -lntup 'sport = :{number}'` names it)"
        assert find_holder("127.0.0.1", number) == expected


def used(pid: int, kind: int, ip: str, number: int, status: str) -> SimpleNamespace:
    """What psutil reports of a socket of a process."""
    return SimpleNamespace(pid=pid, type=kind, laddr=SimpleNamespace(ip=ip, port=number), status=status)


UDP_KIND, TCP_KIND = socket.SOCK_DGRAM, socket.SOCK_STREAM


@pytest.mark.skipif(sys.platform != "win32", reason="services of Windows")
def test_the_services_of_a_process() -> None:
    import psutil

    from vmdns.windows.services import services_of_process

    assert services_of_process(os.getpid()) == []
    assert any(services_of_process(pid) for pid in psutil.pids() if pid)


@pytest.mark.parametrize("system", ["win32", "darwin"])
@pytest.mark.parametrize(
    ("address", "number", "holder"),
    [
        ("192.168.137.1", 53, "svchost.exe (pid 6)"),
        ("192.168.1.5", 53, ""),  # a query that was sent keeps no port
        ("127.0.0.1", 5353, "mdns (pid 7)"),
        ("::1", 5355, "mdns (pid 7)"),
        ("127.0.0.1", 53, ""),
    ],
)
def test_other_systems(monkeypatch: pytest.MonkeyPatch, system: str, address: str, number: int, holder: str) -> None:
    names = {5: "client", 6: "svchost.exe", 7: "mdns"}
    sockets = [
        used(5, TCP_KIND, "192.168.1.5", 53, "ESTABLISHED"),
        used(6, TCP_KIND, "192.168.137.1", 53, "LISTEN"),
        used(7, UDP_KIND, "0.0.0.0", 5353, "NONE"),
        used(7, UDP_KIND, "::", 5355, "NONE"),
    ]
    processes = [SimpleNamespace(pid=4, info={"net_connections": None})]  # of another user
    for pid in names:
        own = [one for one in sockets if one.pid == pid]
        processes.append(SimpleNamespace(pid=pid, info={"net_connections": own}))
    simulated = SimpleNamespace(
        process_iter=lambda wanted: iter(processes), net_connections=lambda kind: sockets, CONN_LISTEN="LISTEN",
        Process=lambda pid: SimpleNamespace(name=lambda: names[pid]), Error=LookupError,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "psutil", simulated)
    services = SimpleNamespace(services_of_process=lambda pid: ["SharedAccess"] if number == 53 else [])
    monkeypatch.setitem(sys.modules, "vmdns.windows.services", services)
    if system == "win32" and holder:
        holder = "svchost.exe (pid 6: SharedAccess)" if number == 53 else f"{holder} at every address"
    monkeypatch.setattr(port.sys, "platform", system)
    assert find_holder(address, number) == holder
