"""Drives `natlab`: VirtualBox's own NAT engine and DHCP server, with network namespaces as guests.

VMDNS_NATLAB names it; its commands run VirtualBox inside the rig, whose path of this checkout is /project.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

COMMAND = os.environ.get("VMDNS_NATLAB", "")
PYTHON = os.environ.get("VMDNS_LIVE_VENV", "/var/tmp/vmdns-live") + "/bin/python"
HOST = "192.0.2.10"  # the address of natlab's host


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


def vbm(*arguments: str, check: bool = True) -> str:
    """VBoxManage on natlab's host."""
    return run("vbm", "VBoxManage", "-q", *arguments, check=check)


class Server:
    """`vmdns run` on natlab's host, at its address and port 53."""

    def __init__(
        self, *environ: str, listen: tuple[str, ...] = (HOST, "127.0.0.1"), options: tuple[str, ...] = ()
    ) -> None:
        self.lines: list[str] = []
        self._ready = threading.Event()
        command = [PYTHON, "-m", "vmdns", "run", *options]
        for one in listen:
            command += ["--listen", f"{one}:53"]
        self.process = subprocess.Popen(
            [COMMAND, "rig", "env", "XDG_STATE_HOME=/tmp/vmdns-natlab", *environ, *command],
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

    def stop(self) -> None:
        os.killpg(self.process.pid, 15)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, 9)
            self.process.wait(5)


def dig(name: str, *more: str) -> list[str]:
    """What vmdns answers to a program on natlab's host, by dig."""
    return run("rig", "dig", f"@{HOST}", "+short", "+time=2", "+tries=2", name, *more, check=False).split()


def processes(*words: str) -> list[int]:
    """Processes in whose environment one of these words is (NAME=value)."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            environ = (process / "environ").read_bytes().split(b"\0") if process.name.isdigit() else []
        except OSError:
            continue
        if any(word.encode() in environ for word in words):
            found.append(int(process.name))
    return found


def clean() -> None:
    """Takes natlab down, and ends what a test that failed left of it running."""
    for line in vbm("list", "runningvms", check=False).splitlines():
        vbm("controlvm", line.rpartition("{")[2].rstrip("}"), "poweroff", check=False)
    run("down", check=False)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes("VBOX_IPC_SOCKETID=natlab", "VBOX_IPC_SOCKETID=vmdnsguest"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        time.sleep(0.5)
    run("down", check=False)
