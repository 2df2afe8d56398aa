"""macOS: vmdns as an agent of the user that launchd starts at log-in (launchd.plist(5), launchctl(1)).

An agent and not a daemon, because VirtualBox shows its VMs in the user's session only. Written from the manual pages
and tested with texts in their format; never run on a Mac.
"""

from __future__ import annotations

import contextlib
import plistlib
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmdns.host import elevation
from vmdns.host.program import ServiceProgram
from vmdns.regular_file import read_whole

LABEL = "local.vmdns"
_TRIES = 10
_RETRY_SECONDS = 0.5
_MOST_BYTES = 1_048_576


def agent_path(home: Path) -> Path:
    """The property list of the agent, in the folder of this user's agents."""
    return home / "Library" / "LaunchAgents" / f"{LABEL}.plist"


def log_path(home: Path) -> Path:
    """The log of vmdns."""
    return home / "Library" / "Logs" / "vmdns.log"


def render_plist(program: ServiceProgram) -> str:
    """The property list."""
    log = str(log_path(program.owner.home))
    wanted = {
        "Label": LABEL,
        "ProgramArguments": list(program.command),
        "EnvironmentVariables": dict(program.environ),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        # Without this launchd ends VBoxSVC and VMs that were started through vmdns when vmdns ends.
        "AbandonProcessGroup": True,
        # "Background" would be throttled, and with it name resolution.
        "ProcessType": "Interactive",
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    return plistlib.dumps(wanted, sort_keys=False).decode()


@dataclass(frozen=True, slots=True)
class LaunchAgent:
    """A `Setting` (plan.py): the agent in the property list `name`, and that it runs; None where there is none."""

    name: str
    uid: int
    kind: str = field(default="launch-agent", init=False)
    elevated: bool = field(default=False, init=False)

    def read(self) -> str | None:
        try:
            return read_whole(Path(self.name), _MOST_BYTES).decode("utf-8")
        except FileNotFoundError:
            return None

    def write(self, value: str | None) -> None:
        with contextlib.suppress(OSError):  # it may not be loaded
            elevation.run(self._end())
        path = Path(self.name)
        if value is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value, "utf-8")
        for command in self._begin():
            self._run_with_retries(command)

    def _run_with_retries(self, command: list[str]) -> None:
        """launchd refuses the new agent until the old one has ended, which takes a moment."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(OSError):
                elevation.run(command)
                return
            time.sleep(_RETRY_SECONDS)
        elevation.run(command)

    def describe(self, before: str | None, after: str | None) -> str:
        if after is None:
            return f"stop vmdns and remove {self.name}"
        return f"{'write' if before is None else 'change'} {self.name}: starts vmdns now and at each log-in"

    def commands(self, before: str | None, after: str | None) -> Sequence[str]:
        shown = [
            elevation.format_command(one, elevated=False)
            for one in (self._begin() if after is not None else [self._end()])
        ]
        path = elevation.format_command([self.name], elevated=False)
        return [f"tee {path} <<'END'\n{after}END", *shown] if after is not None else [*shown, f"rm {path}"]

    def _begin(self) -> list[list[str]]:
        domain = f"gui/{self.uid}"
        return [["launchctl", "enable", f"{domain}/{LABEL}"], ["launchctl", "bootstrap", domain, self.name]]

    def _end(self) -> list[str]:
        return ["launchctl", "bootout", f"gui/{self.uid}/{LABEL}"]


def status(uid: int, home: Path) -> dict[str, Any]:
    """Whether the agent is installed, enabled and running, and its last log lines."""
    found = parse_print(_output("launchctl", "print", f"gui/{uid}/{LABEL}"))
    disabled = LABEL in parse_disabled(_output("launchctl", "print-disabled", f"gui/{uid}"))
    installed = agent_path(home).exists()
    return {"installed": installed, "enabled": installed and not disabled, **found, "log": tail(log_path(home))}


def parse_print(text: str) -> dict[str, Any]:
    """The output of `launchctl print` of a service: its top-level properties."""
    values = dict(re.findall(r"^\t([a-z][a-z ]*) = (.*)$", text, re.M))
    running = values.get("state") == "running"
    code = values.get("last exit code", "")
    ended = "" if running or code in ("", "(never exited)") else f"it ended with status {code}"
    pid = values.get("pid", "")
    return {"running": running, "pid": int(pid) if running and pid.isdecimal() else 0, "since": None, "detail": ended}


def parse_disabled(text: str) -> set[str]:
    """The labels that `launchctl print-disabled` calls disabled; older ones say true."""
    return set(re.findall(r'"([^"]+)" => (?:disabled|true)\b', text))


def tail(file: Path, count: int = 5) -> list[str]:
    """The last lines of a log file."""
    try:
        with file.open("rb") as one:
            one.seek(max(0, file.stat().st_size - 8192))
            return one.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []


def _output(*command: str) -> str:
    return elevation.read_output(*command).decode(errors="replace")
