"""Drives `natlab`: VirtualBox's own NAT engine and DHCP server, with network namespaces as guests.

VMDNS_NATLAB names it; its commands run VirtualBox inside the rig, whose path of this checkout is /project.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.live.lab import Lab, on_nat_network, until
from tests.live.lab import run as run_command
from tests.program import Program

COMMAND = os.environ.get("VMDNS_NATLAB", "")
PYTHON = os.environ.get("VMDNS_LIVE_VENV", "/var/tmp/vmdns-live") + "/bin/python"
HOST = "192.0.2.10"  # the address of natlab's host
# Bridges, and how the TAP devices of their network begin: natlab's own is for NatNetwork, the other for one more.
WIRES = {"br0": "natlab", "br1": "other"}
TAPS = """#!/bin/bash
case " $* " in *" NatNetwork "*) name=natlab ;; *) name=other ;; esac
VBNET_TAP=$name$$ exec -a "$0" "$0.real" "$@"
"""
HOME = "VBOX_USER_HOME=/root/natlab-home"  # in the environment of all its processes of VirtualBox
STATE = "XDG_STATE_HOME=/tmp/vmdns-natlab"


def _reason_unavailable() -> str:
    if not COMMAND:
        return "VMDNS_NATLAB does not name natlab"
    if not Path(COMMAND).exists():
        return f"{COMMAND} is not there"
    return "" if os.geteuid() == 0 else "natlab needs root"


needs_natlab = pytest.mark.skipif(bool(_reason_unavailable()), reason=_reason_unavailable())


def run(*arguments: str, check: bool = True) -> str:
    """One natlab command; its output."""
    return run_command(COMMAND, *arguments, check=check)


def plug(bridge: str = "br0") -> None:
    """Waits until the NAT engine and DHCP server of the network of this wire are there, and joins them to it."""
    prefix = WIRES[bridge]

    def plugged() -> bool:
        for tap in _links("natlabhost"):
            if tap.startswith(prefix):
                ip("natlabhost", "link", "set", tap, "netns", "natlabwire")
                ip("natlabwire", "link", "set", tap, "master", bridge, "up")
        wire = _links("natlabwire")
        return all(
            any(f"{prefix}{pid}" in wire for pid in processes(f"VBNET_TAP={prefix}", program=program))
            for program in ("VBoxNetNAT", "VBoxNetDHCP")
        )

    until(plugged, "the network is on the wire")


def _links(namespace: str) -> list[str]:
    return [line.split()[0].partition("@")[0] for line in ip(namespace, "-br", "link").splitlines()]


def ip(namespace: str, *words: str) -> str:
    """`ip` for a namespace; its output."""
    return run_command("ip", "-n", namespace, *words)


class NatLab(Lab):
    """VirtualBox in natlab. A VM on a NAT Network has the namespace with its MAC as guest system."""

    def __init__(self) -> None:
        self.folder = Path("/root/natlab-home")

    def _vboxmanage(self, *arguments: str, check: bool = True) -> str:
        return run("vbm", "VBoxManage", "-q", *arguments, check=check)


box = NatLab()
vbm, discard = box.vbm, box.discard


class Server(Program):
    """`vmdns run` on natlab's host; within is how to run a command there."""

    def __init__(
        self, *options: str, listen: tuple[str, ...] = (), within: Sequence[str] = (COMMAND, "rig", "env", STATE)
    ) -> None:
        addresses = [word for one in listen for word in ("--listen", f"{one}:53")]
        command = [*within, PYTHON, "-m", "vmdns", "run", *options, *addresses]
        super().__init__(command, start_new_session=True)
        try:
            self.saw("ready")
        except AssertionError:
            self.stop()
            raise

    def stop(self, number: int = signal.SIGTERM) -> int:
        os.killpg(self.process.pid, number)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait(5)


@contextlib.contextmanager
def serving(*options: str, **how: Any) -> Iterator[Server]:
    server = Server(*options, **how)
    try:
        yield server
    finally:
        server.stop()


def processes(*words: str, program: str = "") -> list[int]:
    """Processes of a program whose name begins so, in whose environment one of these words is (NAME=value)."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            environ = (process / "environ").read_bytes().split(b"\0") if process.name.isdigit() else []
            named = bool(environ) and (process / "comm").read_text().startswith(program)
        except OSError:
            continue
        if named and any(one.startswith(word.encode()) for one in environ for word in words):
            found.append(int(process.name))
    return found


def start_vm(name: str, mac: str, network: str = "NatNetwork") -> None:
    box.create(name, *on_nat_network(network), "--mac-address1", mac)
    box.start(name)


def wire(*options: str) -> str:
    """`vmdns wire` on natlab's host; its output."""
    return run("rig", "env", STATE, PYTHON, "-m", "vmdns", "wire", *options)


@contextlib.contextmanager
def up() -> Iterator[None]:
    """natlab with nothing in it but the network NatNetwork; taken down at the end."""
    if Path("/run/natlab").exists():
        clean()  # a run that was interrupted
    run("up")
    try:
        _name_taps()
        stop_network()
        vbm("natnetwork", "start", "--netname", "NatNetwork")
        yield
    finally:
        clean()


def stop_network() -> None:
    """Stops NatNetwork, as the end of its last VM does."""
    vbm("natnetwork", "stop", "--netname", "NatNetwork")
    until(lambda: not processes(HOME, program="VBoxNet"), "the network has stopped")


def _name_taps() -> None:
    """Names each TAP device after its process, so that none is that of a process about to end; and with another prefix
    those of other networks than NatNetwork, so that natlab does not put them on its wire."""
    folder = rig() / "opt/natlab"
    for name in ("VBoxNetNAT", "VBoxNetDHCP"):
        folder.joinpath(name).rename(folder / f"{name}.real")
        folder.joinpath(name).write_text(TAPS)
        folder.joinpath(name).chmod(0o755)


def rig() -> Path:
    """Where the rig's root lies."""
    return Path(run_command(Path(COMMAND).parent / "rig", "path").strip())


def clean() -> None:
    """Takes natlab down, and ends what a test that failed left of it running."""
    run("rig", "rm", "-rf", STATE.partition("=")[2], check=False)
    for line in vbm("list", "runningvms", check=False).splitlines():
        box.power_off(line.rpartition("{")[2].rstrip("}"), check=False)
    for name in re.findall(r"^Name: +(.+)", vbm("list", "natnetworks", check=False), re.MULTILINE):
        vbm("natnetwork", "stop", "--netname", name, check=False)
    run("down", check=False)
    left = processes(HOME)
    if not left:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(0.5)
    run("down", check=False)
