"""Windows: vmdns as a task that Task Scheduler starts when the user logs on (PowerShell's module ScheduledTasks).

A task in the user's session and not a service, because a service has a VirtualBox of its own, without the user's VMs.
Written from Microsoft's documentation and tested with texts in its format; never run on Windows.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any

from vmdns.host import elevation
from vmdns.host.folders import log_file
from vmdns.host.launchd import read_last_lines
from vmdns.host.plan import Plan, Setting
from vmdns.host.resolver_windows import powershell_command, quote_powershell
from vmdns.host.service_program import ServiceOwner, ServiceProgram

_RUNNING, _DISABLED = 4, 1  # TASK_STATE
# Properties of MSFT_TaskSettings that vmdns needs. Durations are those of ISO 8601.
_SETTINGS = {
    "DisallowStartIfOnBatteries": False,
    "StopIfGoingOnBatteries": False,
    "StartWhenAvailable": True,
    "Enabled": True,
    "ExecutionTimeLimit": "PT0S",
    "Priority": 5,
    "RestartInterval": "PT1M",
    "RestartCount": 255,
}


def service_name(user: str) -> str:
    """The name of the user's task."""
    return f"vmdns ({user})"


def task_value(program: ServiceProgram) -> dict[str, Any]:
    """The value of the task: its command line, and the settings that matter."""
    interpreter, *arguments = program.command
    # vmdns.commands.standard_streams keeps a log, since pythonw has no window and no output.
    windowless = PureWindowsPath(interpreter).with_name("pythonw.exe")
    arguments = ["vmdns.commands.standard_streams" if one == "vmdns" else one for one in arguments]
    return {"Execute": str(windowless), "Arguments": subprocess.list2cmdline(arguments), **_SETTINGS}


def _read_task(name: str) -> dict[str, Any]:
    """The value of the task, and its state, since and result; empty without a task.

    By numbers, because schtasks shows words of the user's language.
    """
    line = (
        f"$t = Get-ScheduledTask -TaskName {quote_powershell(name)} -ErrorAction SilentlyContinue; if ($t) {{ "
        "$i = $t | Get-ScheduledTaskInfo; $a = $t.Actions[0]; $s = $t.Settings; @{ state = [int]$t.State; "
        "since = ([DateTimeOffset]$i.LastRunTime).ToUnixTimeSeconds(); result = $i.LastTaskResult; "
        f"Execute = $a.Execute; Arguments = $a.Arguments; {'; '.join(f'{key} = $s.{key}' for key in _SETTINGS)} "
        "} | ConvertTo-Json }"
    )
    return parse_task(elevation.read_output(*powershell_command(line)))


def parse_task(text: str) -> dict[str, Any]:
    """The output of the PowerShell line in `_read_task`."""
    try:
        found = json.loads(text)
        numbers = {"state": int(found["state"]), "since": float(found["since"]), "result": int(found["result"])}
        return {**{key: found[key] for key in ("Execute", "Arguments", *_SETTINGS)}, **numbers}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return {}


class LogonTask(Setting):
    """The task `name`, and that it runs; None where there is none."""

    kind = "logon-task"
    elevated = False

    def read(self) -> dict[str, Any] | None:
        found = _read_task(self.name)
        return {key: value for key, value in found.items() if key not in ("state", "since", "result")} or None

    def commands(self, value: Mapping[str, Any] | None) -> Sequence[Sequence[str]]:
        name = f"-TaskName {quote_powershell(self.name)}"
        lines = [f"Stop-ScheduledTask {name} -ErrorAction SilentlyContinue", "$ErrorActionPreference = 'Stop'"]
        if value is None:
            lines.append(f"Unregister-ScheduledTask {name} -Confirm:$false")
        else:
            domain, account = os.environ.get("USERDOMAIN", ""), os.environ.get("USERNAME", "")
            user = quote_powershell(f"{domain}\\{account}" if domain else account)
            program, arguments = quote_powershell(value["Execute"]), quote_powershell(value["Arguments"])
            lines += [
                f"$a = New-ScheduledTaskAction -Execute {program} -Argument {arguments}",
                f"$t = New-ScheduledTaskTrigger -AtLogOn -User {user}",
                f"$p = New-ScheduledTaskPrincipal -UserId {user} -LogonType Interactive -RunLevel Limited",
                "$s = New-ScheduledTaskSettingsSet -MultipleInstances IgnoreNew",
                *(f"$s.{key} = {_literal(value[key])}" for key in _SETTINGS),
                f"Register-ScheduledTask {name} -Action $a -Trigger $t -Principal $p -Settings $s -Force | Out-Null",
                f"Start-ScheduledTask {name}",
            ]
        return [powershell_command("; ".join(lines))]

    def write(self, value: Mapping[str, Any] | None) -> None:
        try:
            super().write(value)
        except OSError:  # elevated rights are not needed for a user's own task, as a rule
            for command in self.commands(value):
                elevation.run(command, elevated=True)

    def describe(self, before: Any, after: Any) -> str:
        if after is None:
            return f"stop vmdns and delete the task {self.name}"
        return f"{'create' if before is None else 'change'} the task {self.name}: starts vmdns now and at each log-on"


def _literal(value: bool | int | str) -> str:
    if isinstance(value, bool):
        return "$true" if value else "$false"
    return quote_powershell(value) if isinstance(value, str) else str(value)


SETTINGS = {LogonTask.kind: LogonTask}


def check_system() -> None:
    """Windows always has Task Scheduler."""


def plan_service(program: ServiceProgram) -> Plan:
    """The task."""
    return [(LogonTask(service_name(program.owner.name)), task_value(program))], []


def read_status(owner: ServiceOwner) -> dict[str, Any]:
    """Whether the task is there, enabled and runs, since when (Unix seconds), and its last log lines."""
    return {**task_state(_read_task(service_name(owner.name))), "log": read_last_lines(log_file())}


def task_state(found: Mapping[str, Any]) -> dict[str, Any]:
    """The state of the service from what was read of its task."""
    running, result = found.get("state") == _RUNNING, found.get("result", 0)
    return {
        "installed": bool(found),
        "enabled": bool(found) and found["state"] != _DISABLED,
        "running": running,
        "pid": 0,
        "since": found["since"] if running else None,
        "detail": "" if running or not result else f"it ended with status {result & 0xFFFFFFFF:#x}",
    }
