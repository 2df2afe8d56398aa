"""Linux: vmdns as a system service of systemd, which runs as the user who owns the VMs (systemd.service(5)).

A service of the system and not of the user, because only that can be given the right to port 53. It starts and ends
with the user's own manager, user@UID.service: with the first log-in, or with the computer if the user lingers.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vmdns.host import elevate
from vmdns.host.program import Program
from vmdns.host.systemfile import SystemFile

FOLDER = "/etc/systemd/system"
WATCHDOG_SECONDS = 60
_PROPERTIES = "LoadState,UnitFileState,ActiveState,MainPID,ActiveEnterTimestamp,Result,StatusText,NRestarts"
_TIMEOUT = 20.0


def unit_name(user: str) -> str:
    """vmdns-alice.service, with what a unit's name cannot have escaped as systemd-escape(1) does."""
    escaped = "".join(
        char if re.match(r"[A-Za-z0-9:_.-]", char) else "".join(f"\\x{byte:02x}" for byte in char.encode())
        for char in user
    )
    return f"vmdns-{escaped}.service"


def text(program: Program) -> str:
    """The unit file.

    What is not in it: sandboxing. VBoxSVC, which the reader starts where none runs, and through it the VMs would be in
    the same sandbox. VirtualBoxVM, VBoxHeadless and VBoxNetAdpCtl are setuid root and need what any limit of
    capabilities or NoNewPrivileges takes away (which many other directives imply); VMs need the devices, the user's
    files, and all of /tmp, where VBoxSVC's socket is.
    """
    owner = program.owner
    manager = f"user@{owner.uid}.service"
    runtime = f"/run/user/{owner.uid}"
    # A VBoxSVC started from here must find what one from the desktop finds: sound, and the bus of the session.
    environ = [("XDG_RUNTIME_DIR", runtime), ("DBUS_SESSION_BUS_ADDRESS", f"unix:path={runtime}/bus"), *program.environ]
    name = owner.name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", owner.name) else str(owner.uid)
    lines = [
        f"# by vmdns service install: starts vmdns when {owner.name} logs in",
        "[Unit]",
        f"Description=DNS for the VMs of {owner.name.replace('%', '%%')} (vmdns)",
        f"After={manager}",
        f"PartOf={manager}",
        "StartLimitIntervalSec=60",
        "StartLimitBurst=10",
        "",
        "[Service]",
        "Type=notify",
        f"User={name}",
        *(f"Environment={_word(f'{key}={value}')}" for key, value in environ),
        f"ExecStart={' '.join(_word(one, command=True) for one in program.command)}",
        "AmbientCapabilities=CAP_NET_BIND_SERVICE",
        "Restart=on-failure",
        "RestartSec=500ms",
        "TimeoutStartSec=120",
        "TimeoutStopSec=15",
        f"WatchdogSec={WATCHDOG_SECONDS}",
        "# VBoxSVC and VMs may run below this service. They outlive it, and are not to be in a sandbox.",
        "KillMode=process",
        "OOMPolicy=continue",
        "PrivateTmp=no",
        "",
        "[Install]",
        f"WantedBy={manager}",
        "",
    ]
    return "\n".join(lines)


def _word(word: str, *, command: bool = False) -> str:
    """A word as unit files have it: quoted where need be, % doubled, and in command lines $ too."""
    shown = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("\n", "\\n")
    if command:
        shown = shown.replace("$", "$$")
    return shown if re.fullmatch(r"[^\s'\"\\;#]+", word) else f'"{shown}"'


def unit_file(path: str) -> SystemFile:
    """The setting of the unit file; a vmdns that runs is started anew when it changes."""
    unit = path.rpartition("/")[2]
    reload = ("systemctl", "daemon-reload")
    return SystemFile("service-unit", path, after=(reload, ("systemctl", "try-restart", unit)), after_end=(reload,))


@dataclass(frozen=True, slots=True)
class Enabled:
    """A `Setting` (plan.py): whether the unit `name` starts by itself, and now; None where not."""

    name: str
    kind: str = field(default="service-enabled", init=False)
    elevated: bool = field(default=True, init=False)

    def read(self) -> bool | None:
        return True if show(self.name)["UnitFileState"] == "enabled" else None

    def write(self, value: bool | None) -> None:
        elevate.run(self._command(value), elevated=True)

    def describe(self, before: Any, after: bool | None) -> str:
        return f"{'start' if after else 'stop'} {self.name}, now and {'at each log-in' if after else 'for good'}"

    def commands(self, before: Any, after: bool | None) -> Sequence[str]:
        return [elevate.shown(self._command(after), elevated=True)]

    def _command(self, value: bool | None) -> list[str]:
        return ["systemctl", "enable" if value else "disable", "--now", self.name]


def show(unit: str) -> dict[str, str]:
    """Properties of a unit as systemctl shows them; empty texts where there is none. Raises OSError."""
    done = _run("systemctl", "show", "--timestamp=unix", f"--property={_PROPERTIES}", unit)
    return parse_show(done)


def parse_show(text: str) -> dict[str, str]:
    """The output of `systemctl show`; each property that is asked for is there."""
    found = dict.fromkeys(_PROPERTIES.split(","), "")
    return found | {key: value for key, _, value in (line.partition("=") for line in text.splitlines()) if value}


def status(unit: str) -> dict[str, Any]:
    """Whether the service is installed, enabled and runs, since when (Unix seconds), and what it said last."""
    found = show(unit)
    return {**state(found), "log": last_lines(unit)}


def state(found: dict[str, str]) -> dict[str, Any]:
    """What the properties of the unit mean."""
    running = found["ActiveState"] in ("active", "reloading")
    since = found["ActiveEnterTimestamp"].removeprefix("@")
    failed = f"it failed ({found['Result']})" if found["ActiveState"] == "failed" else ""
    starting = "it starts" if found["ActiveState"] in ("activating", "deactivating") else ""
    return {
        "installed": found["LoadState"] not in ("", "not-found"),
        "enabled": found["UnitFileState"] == "enabled",
        "running": running,
        "pid": int(found["MainPID"]) if running and found["MainPID"].isdecimal() else 0,
        "since": float(since) if running and since.isdecimal() else None,
        "detail": (found["StatusText"] if running else "") or failed or starting,
    }


def last_lines(unit: str, count: int = 5) -> list[str]:
    """The last lines that it said, as far as this user may read them."""
    try:
        said = _run("journalctl", "--quiet", "--no-pager", "--output=cat", f"--lines={count}", f"--unit={unit}")
    except OSError:
        return []
    return said.splitlines()


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise OSError(f"{command[0]} cannot be run ({error})") from None
    return done.stdout.decode(errors="replace")
