"""macOS: vmdns as an agent of the user that launchd starts at log-in (launchd.plist(5), launchctl(1)).

An agent and not a daemon, because VirtualBox shows its VMs in the user's session only. Written from the manual pages
and tested with texts in their format; never run on a Mac.

macOS 15 and newer ask the user whether an agent may send to the local network. AssociatedBundleIdentifiers, by which
the question can name an app, is left out: it must be the identifier of a signed app that the agent belongs to (TN3179),
and vmdns belongs to none; Python's own would claim the answer for every program in Python.
"""

from __future__ import annotations

import os
import plistlib
import re
import time
from pathlib import Path
from typing import Any

from vmdns.host import elevation
from vmdns.host.folders import read_last_lines
from vmdns.host.plan import Plan
from vmdns.host.service_program import ServiceOwner, ServiceProgram
from vmdns.host.system_settings import Commands, SystemFile

LABEL = "local.vmdns"
_NO_SESSION = "125: Domain does not support specified action"
NOT_AT_SCREEN = (
    "launchd starts agents only for a user who is logged in at this Mac's screen, and where System Settings > General "
    "> Login Items & Extensions allows them in the background; it is written, and starts at the next log-in there"
)
_START_SECONDS = 5.0
_RETRY_SECONDS = 0.5


def service_name(user: str) -> str:
    """The label of the agent."""
    return LABEL


def _agent_path(home: Path) -> Path:
    return home / "Library" / "LaunchAgents" / f"{LABEL}.plist"


def _log_path(home: Path) -> Path:
    return home / "Library" / "Logs" / "vmdns.log"


def render_plist(program: ServiceProgram) -> str:
    """The property list."""
    log = str(_log_path(program.owner.home))
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


class LaunchAgent(SystemFile):
    """The agent in the property list `name`, and that it runs."""

    kind = "launch-agent"
    elevated = False

    @property
    def after(self) -> Commands:  # type: ignore[override]
        return ("launchctl", "enable", f"{_domain()}/{LABEL}"), ("launchctl", "bootstrap", _domain(), self.name)

    @property
    def before_end(self) -> Commands:  # type: ignore[override]
        return (("launchctl", "bootout", f"{_domain()}/{LABEL}"),)

    def write(self, value: str | None) -> None:
        for command in self.before_end if value is not None else ():
            elevation.read_output(*command)  # an agent that runs; it may not be loaded
        end = time.monotonic() + _START_SECONDS
        while True:
            try:
                super().write(value)
                break
            except OSError as error:  # launchd refuses the new agent until the old one has ended
                if _NO_SESSION in str(error):
                    raise OSError(NOT_AT_SCREEN) from error
                if time.monotonic() > end:
                    raise
                time.sleep(_RETRY_SECONDS)
        if value is not None and not elevation.read_output("launchctl", "print", f"{_domain()}/{LABEL}"):
            raise OSError(f"launchd took {self.name} and does not have its agent; log out and in")

    def describe(self, before: str | None, after: str | None) -> str:
        if after is None:
            return f"stop vmdns and remove {self.name}"
        return f"{'write' if before is None else 'change'} {self.name}: starts vmdns now and at each log-in"


def _domain() -> str:
    return f"gui/{os.geteuid()}"


SETTINGS = {LaunchAgent.kind: LaunchAgent}


def check_system() -> None:
    """Raises OSError where there can be no agent."""
    if os.geteuid() == 0:
        raise OSError("an agent of the user needs no rights; run this without sudo")


def plan_service(program: ServiceProgram) -> Plan:
    """The agent."""
    notes = [
        "where macOS has port 53, for guests of UTM, multipass, Lima, Apple container or Internet Sharing, vmdns "
        "uses a port of 5300-5399 and logs it",
        "macOS 15 and newer ask whether Python may find devices on local networks: allow it, or guests go unanswered",
    ]
    return [(LaunchAgent(str(_agent_path(program.owner.home))), render_plist(program))], notes


def read_status(owner: ServiceOwner) -> dict[str, Any]:
    """Whether the agent is installed, enabled and running, and its last log lines."""
    domain = f"gui/{owner.uid}"
    found = parse_print(elevation.read_output("launchctl", "print", f"{domain}/{LABEL}"))
    disabled = LABEL in parse_disabled(elevation.read_output("launchctl", "print-disabled", domain))
    installed = _agent_path(owner.home).exists()
    log = read_last_lines(_log_path(owner.home))
    return {"installed": installed, "enabled": installed and not disabled, **found, "log": log}


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
