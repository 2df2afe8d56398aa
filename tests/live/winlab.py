"""vmdns as a Windows program, under Wine, beside the real VirtualBox of the rig.

VMDNS_WINBOX_PROGRAM names the program that makes this Windows. Its VBoxManage.exe and its COM server pass everything on
to the VirtualBox in the rig.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.live.lab import Lab, ip, run, until
from tests.program import Program

COMMAND = os.environ.get("VMDNS_WINBOX_PROGRAM", "")
_RIG = Path(COMMAND).parents[1] / "virtualbox" / "rig" if COMMAND else Path()
_PROFILE = "/root/windows"  # in the rig: what the Windows programs have as C:\users\user


def unavailable() -> str:
    """Why there is no Windows here; '' if there is."""
    if not COMMAND:
        return "VMDNS_WINBOX_PROGRAM names no program that makes a Windows"
    for program in (Path(COMMAND), _RIG):
        if not os.access(program, os.X_OK):
            return f"{program} is not there"
    return "" if os.geteuid() == 0 else "the Windows needs root"


def _winbox(*words: str) -> None:
    # No pipe: it would stay open for as long as anything runs that the first Windows program has started.
    subprocess.run([COMMAND, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=600, check=True)


def popen(command: list[str], **how: Any) -> subprocess.Popen[bytes]:
    """Starts `python -m vmdns ...` as a Windows program instead."""
    return subprocess.Popen([COMMAND, *command[command.index("vmdns") :]], **how)


class Windows(Lab):
    """A lab in the settings folder of the Windows user, which is made anew."""

    def __init__(self) -> None:
        self._inside = run(_RIG, "path").strip()
        self.home = Path(self._inside + _PROFILE) / ".VirtualBox"
        self.folder = Path(_PROFILE) / "VirtualBox VMs"  # as VirtualBox in the rig calls it
        self.word = "windows"
        self.environ = dict(os.environ)
        self._last_lease = 0
        self._end()  # what runs keeps the network that it was started in
        shutil.rmtree(self.home.parent, ignore_errors=True)
        _winbox("virtualbox")
        self._root = Path(run(COMMAND, "path").strip())
        self._oracle = self._root / "prefix/drive_c/Program Files/Oracle"

    def _vboxmanage(self, *arguments: str, check: bool = True) -> str:
        return run(*self._in_rig("VBoxManage", "-q", *arguments), check=check)

    def _in_rig(self, *command: str) -> list[str]:
        home = f"VBOX_USER_HOME={_PROFILE}/.VirtualBox"
        return [str(_RIG), "run", "env", home, f"VBOX_IPC_SOCKETID={self.word}", *command]

    def command(self, *words: str) -> Program:
        """Starts a command of vmdns."""
        return Program(["vmdns", *words], start=popen)

    def processes(self, name: str) -> list[int]:
        """Those in the rig: other labs have the same words."""
        return [pid for pid in super().processes(name) if os.readlink(f"/proc/{pid}/root") == self._inside]

    @contextlib.contextmanager
    def without_virtualbox(self) -> Iterator[None]:
        """As before VirtualBox is installed: its folder is not there."""
        away = self._oracle.with_name("Oracle.away")
        self._oracle.rename(away)
        try:
            yield
        finally:
            away.rename(self._oracle)

    def close(self) -> None:
        _winbox("virtualbox", "stop")
        self._end()

    def _end(self) -> None:
        """Ends all Windows programs, and all of VirtualBox in the rig."""
        _winbox("stop")
        for name in ("VBoxHeadless", "vboxheadless-driverless", "VBoxSVC", "VBoxNetDHCP", "VBoxNetNAT"):
            self.kill(name)


class Client:
    """A computer at the other end of an interface's wire, with this address and MAC."""

    def __init__(self, interface: str, address: str, mac: str) -> None:
        self._process = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
        self._inside = ["nsenter", "-t", str(self._process.pid), "-n"]
        own = os.readlink("/proc/self/ns/net")
        until(lambda: os.readlink(f"/proc/{self._process.pid}/ns/net") != own, "a namespace")
        self._peer = f"peer-{interface}"
        ip("link", "set", self._peer, "netns", str(self._process.pid))
        for words in (
            f"link set {self._peer} address {mac}",
            f"addr add {address}/24 dev {self._peer}",
            f"link set {self._peer} up",
        ):
            run(*self._inside, "ip", *words.split())

    def run(self, *command: str) -> str:
        """What a command prints there."""
        return run(*self._inside, *command, check=False)

    def close(self) -> None:
        run(*self._inside, "ip", "link", "set", self._peer, "netns", str(os.getpid()))
        self._process.kill()
        self._process.wait()
