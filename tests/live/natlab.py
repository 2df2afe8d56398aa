"""Drives `natlab`: VirtualBox's own NAT engine and DHCP server, with network namespaces as guests.

VMDNS_NATLAB names it; its commands run VirtualBox inside the rig, whose path of this checkout is /project.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.live.lab import until

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


def available() -> str:
    """Why natlab cannot be used here; '' if it can."""
    if not COMMAND:
        return "VMDNS_NATLAB does not name natlab"
    if not Path(COMMAND).exists():
        return f"{COMMAND} is not there"
    return "" if os.geteuid() == 0 else "natlab needs root"


def run(*arguments: str, check: bool = True, seconds: float = 120) -> str:
    """One natlab command; its output."""
    done = subprocess.run(
        [COMMAND, *arguments], stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"natlab {' '.join(arguments)}: {done.stdout.decode()}{done.stderr.decode()}")
    return done.stdout.decode(errors="replace")


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
    done = subprocess.run(["ip", "-n", namespace, *words], capture_output=True, timeout=30, check=False)
    if done.returncode:
        raise AssertionError(f"ip -n {namespace} {' '.join(words)}: {done.stderr.decode()}")
    return done.stdout.decode()


def vbm(*arguments: str, check: bool = True) -> str:
    """One VBoxManage command in the rig; its output.

    Tried again where it meets a VBoxSVC that is just going: that one takes no new clients, and blocks a new one.
    """
    for _ in range(5):
        try:
            return run("vbm", "VBoxManage", "-q", *arguments, check=check)
        except AssertionError as error:
            if "Failed to create the VirtualBox object" not in str(error):
                raise
            time.sleep(1)
    return run("vbm", "VBoxManage", "-q", *arguments, check=check)


class Server:
    """`vmdns run` on natlab's host; within is how to run a command there."""

    def __init__(
        self, *options: str, listen: tuple[str, ...] = (), within: Sequence[str] = (COMMAND, "rig", "env", STATE)
    ) -> None:
        self.lines: list[str] = []
        self._ready = threading.Event()
        command = [PYTHON, "-m", "vmdns", "run", *options]
        for one in listen:
            command += ["--listen", f"{one}:53"]
        self.process = subprocess.Popen(
            [*within, *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()
        if not self._ready.wait(60):
            self.stop()
            raise AssertionError("vmdns is not ready:\n" + "\n".join(self.lines))

    def _read(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            self.lines.append(raw.decode(errors="replace").rstrip())
            if self.lines[-1].startswith("ready"):
                self._ready.set()

    def saw(self, text: str, after: int = 0) -> None:
        """Waits for a line with this text, from the line number `after` on."""
        try:
            until(lambda: any(text in line for line in self.lines[after:]), f"vmdns says {text!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it said:\n" + "\n".join(self.lines)) from None

    def stop(self) -> None:
        os.killpg(self.process.pid, 15)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait(5)


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


def create(name: str, mac: str, network: str = "NatNetwork") -> None:
    """A VM on a NAT Network; the namespace with its MAC is its guest system."""
    vbm("createvm", "--name", name, "--ostype", "Linux_64", "--register", "--basefolder", "/root/natlab-home/vms")
    vbm(
        "modifyvm", name, "--memory", "32", "--vram", "1", "--audio-enabled", "off",
        "--vm-execution-engine", "interpreter", "--nic1", "natnetwork", "--nat-network1", network,
        "--mac-address1", mac,
    )  # fmt: skip
    vbm("setextradata", name, "VBoxInternal/Devices/e1000/0/LUN#0/Config/IgnoreConnectFailure", "1")


def start(name: str) -> None:
    vbm("startvm", name, "--type", "headless")


def discard(name: str) -> None:
    """Ends a VM and forgets it."""
    vbm("controlvm", name, "poweroff", check=False)

    def gone() -> bool:
        vbm("unregistervm", name, "--delete", check=False)  # as soon as nothing holds it any more
        return f'"{name}"' not in vbm("list", "vms")

    until(gone, f"{name} is gone")


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
    """Has each TAP device named after its process, so that it is never that of one that is going; and those of other
    networks than NatNetwork otherwise, so that natlab does not put them on its wire."""
    folder = rig() / "opt/natlab"
    for name in ("VBoxNetNAT", "VBoxNetDHCP"):
        folder.joinpath(name).rename(folder / f"{name}.real")
        folder.joinpath(name).write_text(TAPS)
        folder.joinpath(name).chmod(0o755)


def rig() -> Path:
    """Where the rig's root lies."""
    done = subprocess.run([Path(COMMAND).parent / "rig", "path"], capture_output=True, check=True, timeout=30)
    return Path(done.stdout.decode().strip())


def clean() -> None:
    """Takes natlab down, and ends what a test that failed left of it running."""
    run("rig", "rm", "-rf", STATE.partition("=")[2], check=False)
    for line in vbm("list", "runningvms", check=False).splitlines():
        vbm("controlvm", line.rpartition("{")[2].rstrip("}"), "poweroff", check=False)
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
