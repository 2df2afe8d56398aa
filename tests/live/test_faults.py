"""Faults of a real VirtualBox and of its files, while questions go on: nothing wrong is answered, and it recovers."""

from __future__ import annotations

import os
import re
import signal
import socket
from pathlib import Path

import pytest

from tests.contract.faults.stream import NOBODY, Answer, ask, recovery, streaming
from tests.live.lab import DOOR, HOST_ONLY, ON_HOST_ONLY, Lab, Server, ip, run, serving, until

FOUR, FIVE = frozenset({"10.0.2.4"}), frozenset({"10.0.2.5"})
MAX_SECONDS = 90.0  # a reader that hangs counts as such after 30 to 45


@pytest.fixture
def web(lab: Lab) -> str:
    """A VM that runs and has a lease."""
    lab.nat_network()
    return lab.start_vm("web", "10.0.2.4")


def is_at(server: Server, answer: Answer) -> bool:
    return ask("web.local", DOOR, server.port) == answer


def is_read_again(server: Server, after: int) -> bool:
    return any("VirtualBox is read again" in line for line in server.lines[after:])


def test_1_vboxsvc_is_killed(lab: Lab, web: str) -> None:
    """With it goes its VM: until VirtualBox says so the name keeps its address, and never gets another."""
    with serving(lab, "--reader", "api") as server:
        server.is_at("web.local", "10.0.2.4")
        before = len(server.lines)
        with streaming("1 VBoxSVC killed", DOOR, server.port, {"web.local": frozenset({FOUR, NOBODY})}):
            lab.kill("VBoxSVC")
            recovery("1 VBoxSVC killed", lambda: is_read_again(server, before), MAX_SECONDS)
            lab.power_off(web, check=False)
            until(lambda: is_at(server, NOBODY), "off")
            until(lambda: lab.vbm("startvm", web, "--type", "headless", check=False).count("success"), "started again")
            recovery("1 VBoxSVC killed, its VM started again", lambda: is_at(server, FOUR), MAX_SECONDS)


def test_2_vboxsvc_hangs(lab: Lab, web: str) -> None:
    """Stopped by a signal: the names stay, the reader is restarted until VirtualBox answers; then changes are seen."""
    with serving(lab, "--reader", "api") as server:
        server.is_at("web.local", "10.0.2.4")
        before = len(server.lines)
        mac = lab.mac(web)
        (pid,) = lab.processes("VBoxSVC")
        with streaming("2 VBoxSVC hangs", DOOR, server.port, {"web.local": frozenset({FOUR, FIVE})}):
            os.kill(pid, signal.SIGSTOP)
            try:
                server.saw("VirtualBox does not answer", before)
                lab.lease("NatNetwork", (mac, "10.0.2.5"))  # leases are read without it
                recovery("2 VBoxSVC hangs, a new lease", lambda: is_at(server, FIVE), MAX_SECONDS)
            finally:
                os.kill(pid, signal.SIGCONT)
            recovery("2 VBoxSVC goes on", lambda: is_read_again(server, before), MAX_SECONDS)
        lab.power_off(web)
        recovery("2 VBoxSVC goes on, its VM is switched off", lambda: is_at(server, NOBODY), MAX_SECONDS)


def test_the_home_vanishes_and_comes_back(lab: Lab, web: str) -> None:
    mac = lab.mac(web)
    away = lab.home.with_name("away")
    with serving(lab, "--reader", "api") as server:
        server.is_at("web.local", "10.0.2.4")
        before = len(server.lines)
        with streaming("VirtualBox home gone", DOOR, server.port, {"web.local": frozenset({FOUR, FIVE})}):
            lab.home.rename(away)
            try:
                server.saw("the last leases stay in force", before)
            finally:
                if not lab.home.exists():
                    away.rename(lab.home)
                else:  # VBoxSVC made one meanwhile
                    for file in away.iterdir():
                        file.replace(lab.home / file.name)
            lab.lease("NatNetwork", (mac, "10.0.2.5"))
            recovery("VirtualBox home is back", lambda: is_at(server, FIVE), MAX_SECONDS)


def test_4_the_lease_file_is_damaged_deleted_replaced(lab: Lab, web: str) -> None:
    mac = lab.mac(web)
    file = lab.home / "NatNetwork-Dhcpd.leases"
    nothing: Answer = frozenset()  # the VM runs, and has no address
    with serving(lab) as server:
        server.is_at("web.local", "10.0.2.4")
        whole = file.read_bytes()
        with streaming("4 lease file half-written", DOOR, server.port, {"web.local": frozenset({FOUR})}):
            for end in range(0, len(whole), 7):
                file.write_bytes(whole[:end])
            server.saw("its last good content stays in force")
            file.write_bytes(whole)
        right = frozenset({FOUR, FIVE, nothing})
        with streaming("4 lease file deleted and replaced", DOOR, server.port, {"web.local": right}):
            file.unlink()
            recovery("4 lease file deleted", lambda: is_at(server, nothing), MAX_SECONDS)
            lab.lease("NatNetwork", (mac, "10.0.2.5"))
            recovery("4 lease file replaced", lambda: is_at(server, FIVE), MAX_SECONDS)


def test_7_an_interface_goes_down_and_up_and_changes_its_address(lab: Lab) -> None:
    if "vboxnet0" not in {name for _, name in socket.if_nameindex()}:
        pytest.skip("needs vboxnet0: tools/live makes it in a network namespace")
    uuid = lab.create("ho", *ON_HOST_ONLY)
    lab.start(uuid)
    lab.lease(HOST_ONLY, (lab.mac(uuid), "192.168.56.101"))
    there, nothing = frozenset({"192.168.56.101"}), frozenset[str]()  # without the link, nobody can reach it

    def port(server: Server, address: str, after: int = 0) -> int:
        return int(re.search(r"port (\d+)", server.saw(f"listening on {address}", after))[1])  # type: ignore[index]

    def left() -> bool:
        # The last line counts: the link's going down may be noticed so late that this is logged only once.
        return "no longer" in [line for line in server.lines if "listening on 192.168.56.1 " in line][-1]

    with serving(lab, at="") as server:
        until(lambda: ask("ho.local", "127.0.0.1", server.port) == there, "the VM's address")
        right = {"localhost": frozenset({frozenset({"127.0.0.1"})}), "ho.local": frozenset({there, nothing})}
        assert port(server, "192.168.56.1") == 53
        with streaming("7 interface down and up", "127.0.0.1", server.port, right):
            ip("link", "set", "vboxnet0", "down")
            ip("link", "set", "vboxnet0", "up")
            recovery("7 interface up", lambda: ask("vmdns.local", "192.168.56.1", 53, seconds=1.0), MAX_SECONDS)
            try:
                ip("addr", "del", "192.168.56.1/24", "dev", "vboxnet0")
                until(left, "no longer listening on 192.168.56.1")
                ip("addr", "add", "192.168.56.9/24", "dev", "vboxnet0")
                recovery("7 address changed", lambda: ask("vmdns.local", "192.168.56.9", 53, seconds=1.0), MAX_SECONDS)
            finally:
                for words in ("del 192.168.56.9/24", "add 192.168.56.1/24"):
                    run("ip", "addr", *words.split(), "dev", "vboxnet0", check=False)
            recovery("7 address is back", lambda: ask("vmdns.local", "192.168.56.1", 53, seconds=1.0), MAX_SECONDS)
            recovery("7 its VM is seen again", lambda: ask("ho.local", "127.0.0.1", server.port) == there, MAX_SECONDS)


def test_3_a_removal_is_reported_and_names_stay(lab: Lab, web: str, tmp_path: Path) -> None:
    """Fault 3: the programs of VirtualBox are gone; the names stay, and it is read again once they are there."""
    program = Path("/usr/lib/virtualbox/VBoxSVC")
    if not os.access(program, os.W_OK):
        pytest.skip(f"{program} may not be touched")
    config = tmp_path / "vmdns.toml"
    config.write_text("[limits]\nlook_interval = 5\n")
    away = program.with_name("VBoxSVC.away")
    with serving(lab, "--reader", "api", "--config", str(config)) as server:
        server.is_at("web.local", "10.0.2.4")
        before = len(server.lines)
        with streaming("3 VirtualBox removed", DOOR, server.port, {"web.local": frozenset({FOUR})}):
            program.rename(away)
            try:
                server.saw("its last names stay in force", before)
            finally:
                away.rename(program)
            recovery("3 VirtualBox is back", lambda: is_read_again(server, before), MAX_SECONDS)
