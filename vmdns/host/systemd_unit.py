"""Linux: vmdns as a system service of systemd: its unit files as settings, and how it is (systemctl(1)).

The service runs as the user who owns the VMs, from the first log-in on, or with the computer if the user lingers.
What stands in the files: unit_text.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vmdns.host import elevation
from vmdns.host.system_file import SystemFile

_PROPERTIES = "LoadState,UnitFileState,ActiveState,MainPID,ActiveEnterTimestamp,Result,StatusText,NRestarts"
_TIMEOUT = 20.0


def unit_file(path: str) -> SystemFile:
    """The setting of a unit file. What runs by it is started anew when it changes; a template's instances end by
    themselves."""
    unit = path.rpartition("/")[2]
    reload = ("systemctl", "daemon-reload")
    again = () if "@." in unit else (("systemctl", "try-restart", unit),)
    return SystemFile("service-unit", path, after=(reload, *again), after_end=(reload,))


@dataclass(frozen=True, slots=True)
class Enabled:
    """A `Setting` (plan.py): whether the unit `name` starts by itself, and now; None where not."""

    name: str
    kind: str = field(default="service-enabled", init=False)
    elevated: bool = field(default=True, init=False)

    def read(self) -> bool | None:
        return True if show(self.name)["UnitFileState"] == "enabled" else None

    def write(self, value: bool | None) -> None:
        elevation.run(self._command(value), elevated=True)

    def describe(self, before: Any, after: bool | None) -> str:
        return f"{'start' if after else 'stop'} {self.name}, now and {'at each log-in' if after else 'for good'}"

    def commands(self, before: Any, after: bool | None) -> Sequence[str]:
        return [elevation.shown(self._command(after), elevated=True)]

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
