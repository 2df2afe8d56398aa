"""Windows: vmdns as a task that Task Scheduler starts when the user logs on (schtasks, and its XML schema 1.2).

A task in the user's session and not a service, because a service has a VirtualBox of its own, without the user's VMs.
Written from Microsoft's documentation and tested with texts in its format; never run on Windows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PureWindowsPath
from typing import Any

from vmdns.host import elevation
from vmdns.host.nrpt import powershell_command, quote_powershell
from vmdns.host.program import ServiceProgram
from vmdns.state.external_data import decode_console

_NAMESPACE = "http://schemas.microsoft.com/windows/2004/02/mit/task"
_RUNNING, _DISABLED = 4, 1  # TASK_STATE
# Elements below Settings: the value for vmdns, and the schema's default for a missing element.
_SETTINGS = {
    "MultipleInstancesPolicy": ("IgnoreNew", "IgnoreNew"),
    "DisallowStartIfOnBatteries": ("false", "true"),
    "StopIfGoingOnBatteries": ("false", "true"),
    "StartWhenAvailable": ("true", "false"),
    "Enabled": ("true", "true"),
    "ExecutionTimeLimit": ("PT0S", "PT72H"),
    "Priority": ("5", "7"),
    "RestartOnFailure/Interval": ("PT1M", ""),
    "RestartOnFailure/Count": ("255", ""),
}


def task_name(user: str) -> str:
    """The name of the user's task."""
    return f"vmdns ({user})"


def wanted(program: ServiceProgram) -> dict[str, str]:
    """The value of the task: its command line, and the settings that matter."""
    interpreter, *arguments = program.command
    # vmdns.commands.standard_streams keeps a log, since pythonw has no window and no output.
    windowless = PureWindowsPath(interpreter).with_name("pythonw.exe")
    arguments = ["vmdns.commands.standard_streams" if one == "vmdns" else one for one in arguments]
    settings = {f"Settings/{key}": want for key, (want, _) in _SETTINGS.items()}
    return {"Command": str(windowless), "Arguments": subprocess.list2cmdline(arguments), **settings}


def render(value: Mapping[str, str], user: str) -> bytes:
    """The task as XML in UTF-16, as schtasks takes it. user is like DESKTOP-1\\alice."""
    ElementTree.register_namespace("", _NAMESPACE)
    task = ElementTree.Element(_tag("Task"), {"version": "1.2"})
    _put(task, "RegistrationInfo/Description", "by vmdns service install: starts vmdns when you log on")
    _put(task, "Triggers/LogonTrigger/Enabled", "true")
    _put(task, "Triggers/LogonTrigger/UserId", user)
    principal = _put(task, "Principals/Principal", "")
    principal.set("id", "Author")
    for key, text in (("UserId", user), ("LogonType", "InteractiveToken"), ("RunLevel", "LeastPrivilege")):
        _put(principal, key, text)
    for key, text in value.items():
        if key.startswith("Settings/"):
            _put(task, key, text)
    actions = _put(task, "Actions", "")
    actions.set("Context", "Author")
    for key in ("Command", "Arguments"):
        _put(actions, f"Exec/{key}", value[key])
    return bytes(ElementTree.tostring(task, encoding="utf-16", xml_declaration=True))


def parse(text: str) -> dict[str, str]:
    """The value of a task from its XML, as `schtasks /query /xml` shows it. Raises OSError for anything else.

    Windows adds elements, leaves out what is the default, and writes users as SIDs: only what `wanted` has is compared.
    """
    try:
        # The declaration says UTF-16, but this text is decoded already.
        task = ElementTree.fromstring(text[text.index("<Task") :])
    except (ElementTree.ParseError, ValueError) as error:
        raise OSError(f"the task cannot be understood ({error})") from None
    found = {key: _text(task, f"Actions/Exec/{key}", "") for key in ("Command", "Arguments")}
    return found | {
        f"Settings/{key}": _text(task, f"Settings/{key}", default) for key, (_, default) in _SETTINGS.items()
    }


def _tag(name: str) -> str:
    return f"{{{_NAMESPACE}}}{name}"


def _text(task: ElementTree.Element, path: str, default: str) -> str:
    found = task.findtext("/".join(map(_tag, path.split("/"))))
    return default if found is None else found.strip()


def _put(parent: ElementTree.Element, path: str, text: str) -> ElementTree.Element:
    """The element at this path, made where it is missing, with this text."""
    for name in path.split("/"):
        found = parent.find(_tag(name))
        parent = ElementTree.SubElement(parent, _tag(name)) if found is None else found
    parent.text = text or None
    return parent


@dataclass(frozen=True, slots=True)
class LogonTask:
    """A `Setting` (plan.py): the task `name`, and that it runs; None where there is none."""

    name: str
    kind: str = field(default="logon-task", init=False)
    elevated: bool = field(default=False, init=False)

    def read(self) -> dict[str, str] | None:
        text = _output("schtasks", "/query", "/tn", self.name, "/xml")
        return parse(text) if "<Task" in text else None

    def write(self, value: Mapping[str, str] | None) -> None:
        if value is None:
            _output("schtasks", "/end", "/tn", self.name)  # it may not run
            _run_elevated_if_needed(["schtasks", "/delete", "/tn", self.name, "/f"])
            return
        handle, file = tempfile.mkstemp(suffix=".xml")
        try:
            with os.fdopen(handle, "wb") as one:
                one.write(render(value, account()))
            _run_elevated_if_needed(["schtasks", "/create", "/tn", self.name, "/xml", file, "/f"])
        finally:
            os.unlink(file)
        _output("schtasks", "/end", "/tn", self.name)
        elevation.run(["schtasks", "/run", "/tn", self.name])

    def describe(self, before: Any, after: Any) -> str:
        if after is None:
            return f"stop vmdns and delete the task {self.name}"
        return f"{'create' if before is None else 'change'} the task {self.name}: starts vmdns now and at each log-on"

    def commands(self, before: Any, after: Any) -> Sequence[str]:
        if after is None:
            return [elevation.format_command(["schtasks", "/delete", "/tn", self.name, "/f"], elevated=False)]
        program, arguments = quote_powershell(after["Command"]), quote_powershell(after["Arguments"])
        action = f"New-ScheduledTaskAction -Execute {program} -Argument {arguments}"
        trigger = "New-ScheduledTaskTrigger -AtLogOn -User $env:USERNAME"
        settings = (
            "New-ScheduledTaskSettingsSet -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries -StartWhenAvailable "
            "-ExecutionTimeLimit 0 -Priority 5 -RestartCount 255 -RestartInterval 0:1"
        )
        return [
            f"Register-ScheduledTask {quote_powershell(self.name)} -Action ({action}) -Trigger ({trigger}) "
            f"-Settings ({settings})"
        ]


def _run_elevated_if_needed(command: list[str]) -> None:
    """Tries without elevated rights first, which usually suffice for a user's own task."""
    try:
        elevation.run(command)
    except OSError:
        elevation.run(command, elevated=True)


def account() -> str:
    """The Windows account of this user."""
    domain, name = os.environ.get("USERDOMAIN", ""), os.environ.get("USERNAME", "")
    return f"{domain}\\{name}" if domain else name


def status(name: str, log: Sequence[str]) -> dict[str, Any]:
    """Whether the task is there, enabled and runs. By numbers, because schtasks shows words of the user's language."""
    line = (
        f"$t = Get-ScheduledTask -TaskName {quote_powershell(name)} -ErrorAction SilentlyContinue; if ($t) {{ "
        "$i = $t | Get-ScheduledTaskInfo; @{ state = [int]$t.State; result = $i.LastTaskResult; "
        "since = ([DateTimeOffset]$i.LastRunTime).ToUnixTimeSeconds() } | ConvertTo-Json }"
    )
    return {**parse_status(_output(*powershell_command(line))), "log": list(log)}


def parse_status(text: str) -> dict[str, Any]:
    """The output of the PowerShell line in `status`; values for no task if it is empty."""
    try:
        found = json.loads(text)
        state, since, result = int(found["state"]), float(found["since"]), int(found["result"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return {"installed": False, "enabled": False, "running": False, "pid": 0, "since": None, "detail": ""}
    running = state == _RUNNING
    ended = "" if running or not result else f"it ended with status {result & 0xFFFFFFFF:#x}"
    return {
        "installed": True,
        "enabled": state != _DISABLED,
        "running": running,
        "pid": 0,
        "since": since if running else None,
        "detail": ended,
    }


def _output(*command: str) -> str:
    raw = elevation.read_output(*command, timeout=30.0)
    # schtasks writes XML in UTF-16 to a pipe on some versions of Windows, in the console's code page on others.
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", "replace")
    return decode_console(raw, sys.platform)
