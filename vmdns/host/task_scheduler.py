"""Windows: vmdns as a task that Task Scheduler starts when the user logs on, by its COM interface.

https://learn.microsoft.com/windows/win32/taskschd/task-scheduler-start-page; the XML of a task, with the defaults of
what it leaves out, is [MS-TSCH] section 2.5. A task in the user's session and not a service, because a service has a
VirtualBox of its own, without the user's VMs. Tested with XML in Windows' format; never run on Windows.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import PureWindowsPath
from typing import Any
from xml.etree import ElementTree as xml
from xml.sax.saxutils import escape

from vmdns.host import elevation
from vmdns.host.folders import log_file, read_last_lines
from vmdns.host.plan import Plan, Setting
from vmdns.host.service_program import ServiceOwner, ServiceProgram

_DISABLED, _RUNNING = 1, 4  # TASK_STATE
_CREATE_OR_UPDATE, _INTERACTIVE_TOKEN = 6, 3  # TASK_CREATION, TASK_LOGON_TYPE
_NOT_FOUND, _ACCESS_DENIED = 0x80070002, 0x80070005

# What the value of a task has: its place in the XML, and what Windows takes where it is missing. A task that ends is
# started again each minute (Repetition): RestartOnFailure is for one that cannot be started.
_PARTS = {
    "UserId": ("Principals/Principal/UserId", ""),
    "RunLevel": ("Principals/Principal/RunLevel", "LeastPrivilege"),
    "Command": ("Actions/Exec/Command", ""),
    "Arguments": ("Actions/Exec/Arguments", ""),
    "Interval": ("Triggers/LogonTrigger/Repetition/Interval", ""),
    "Enabled": ("Settings/Enabled", "true"),
    "MultipleInstancesPolicy": ("Settings/MultipleInstancesPolicy", "IgnoreNew"),
    "DisallowStartIfOnBatteries": ("Settings/DisallowStartIfOnBatteries", "true"),
    "StopIfGoingOnBatteries": ("Settings/StopIfGoingOnBatteries", "true"),
    "ExecutionTimeLimit": ("Settings/ExecutionTimeLimit", "PT72H"),
    "Priority": ("Settings/Priority", "7"),
}
_TASK = """\
<Task version="1.2" xmlns="http://schemas.microsoft.com/windows/2004/02/mit/task">
  <RegistrationInfo><Description>DNS for VirtualBox VMs (vmdns)</Description></RegistrationInfo>
  <Triggers>
    <LogonTrigger>
      <Repetition><Interval>{Interval}</Interval></Repetition>
      <UserId>{UserId}</UserId>
    </LogonTrigger>
  </Triggers>
  <Principals>
    <Principal id="Author">
      <UserId>{UserId}</UserId><LogonType>InteractiveToken</LogonType><RunLevel>{RunLevel}</RunLevel>
    </Principal>
  </Principals>
  <Settings>
    <Enabled>{Enabled}</Enabled>
    <MultipleInstancesPolicy>{MultipleInstancesPolicy}</MultipleInstancesPolicy>
    <DisallowStartIfOnBatteries>{DisallowStartIfOnBatteries}</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>{StopIfGoingOnBatteries}</StopIfGoingOnBatteries>
    <ExecutionTimeLimit>{ExecutionTimeLimit}</ExecutionTimeLimit>
    <Priority>{Priority}</Priority>
  </Settings>
  <Actions Context="Author"><Exec><Command>{Command}</Command><Arguments>{Arguments}</Arguments></Exec></Actions>
</Task>
"""


def service_name(user: str) -> str:
    """The name of the user's task."""
    return f"vmdns ({user})"


def task_value(program: ServiceProgram, user_id: str) -> dict[str, str]:
    """The value of the task for the user with this security identifier."""
    interpreter, *arguments = program.command
    # vmdns.commands.standard_streams keeps a log, since pythonw has no window and no output.
    windowless = PureWindowsPath(interpreter).with_name("pythonw.exe")
    arguments = ["vmdns.commands.standard_streams" if one == "vmdns" else one for one in arguments]
    return {
        "UserId": user_id,
        "RunLevel": "LeastPrivilege",
        "Command": str(windowless),
        "Arguments": subprocess.list2cmdline(arguments),
        "Interval": "PT1M",
        "Enabled": "true",
        "MultipleInstancesPolicy": "IgnoreNew",
        "DisallowStartIfOnBatteries": "false",
        "StopIfGoingOnBatteries": "false",
        "ExecutionTimeLimit": "PT0S",
        "Priority": "5",
    }


def render_task(value: Mapping[str, str]) -> str:
    """The XML of a task with this value."""
    return _TASK.format_map({key: escape(value[key]) for key in _PARTS})


def parse_task(text: str) -> dict[str, str]:
    """The value in the XML of a task. Raises OSError for anything else."""
    try:
        task = xml.fromstring(text)
    except xml.ParseError as error:
        raise OSError(f"Task Scheduler's description of the task cannot be understood: {error}") from None
    return {
        key: task.findtext("/".join(f"{{*}}{part}" for part in path.split("/")), default)
        for key, (path, default) in _PARTS.items()
    }


class TaskSchedulerError(OSError):
    """An error of Task Scheduler; code: its HRESULT, 0 where there is no Task Scheduler to ask."""

    def __init__(self, what: str, error: Exception) -> None:
        # An error of a method has its own code in its details.
        details: Any = getattr(error, "excepinfo", None)
        self.code: int = ((details and details[5]) or getattr(error, "hresult", 0)) & 0xFFFFFFFF
        super().__init__(f"Task Scheduler cannot {what} ({f'{self.code:#010x}' if self.code else error})")


@contextlib.contextmanager
def _com_errors(what: str) -> Iterator[None]:
    """Turns errors of COM into `TaskSchedulerError`."""
    import pythoncom

    try:
        yield
    except (pythoncom.com_error, AttributeError) as error:  # the latter where it has no such method
        raise TaskSchedulerError(what, error) from None


def _open_folder() -> Any:
    """Task Scheduler's root folder, an ITaskFolder."""
    import win32com.client

    service = win32com.client.Dispatch("Schedule.Service")
    service.Connect()
    return service.GetFolder("\\")


def _find_task(name: str) -> Any | None:
    """The task, an IRegisteredTask; None where there is none. Raises OSError."""
    try:
        with _com_errors("be asked"):
            return _open_folder().GetTask(name)
    except TaskSchedulerError as error:
        if error.code == _NOT_FOUND:
            return None
        raise


class LogonTask(Setting):
    """The task `name`, and that it runs; None where there is none."""

    kind = "logon-task"
    elevated = False

    def read(self) -> dict[str, str] | None:
        found = _find_task(self.name)
        if found is None:
            return None
        with _com_errors("be asked"):
            return parse_task(found.Xml)

    def write(self, value: Mapping[str, str] | None) -> None:
        try:
            with _com_errors("change the task"):
                folder, found = _open_folder(), _find_task(self.name)
                if found is not None:
                    found.Stop(0)
                if value is None:
                    folder.DeleteTask(self.name, 0)
                    return
                folder.RegisterTask(
                    self.name, render_task(value), _CREATE_OR_UPDATE, None, None, _INTERACTIVE_TOKEN, None
                )
                folder.GetTask(self.name).Run(None)
        except TaskSchedulerError as error:
            # As a rule, a user's own task needs no elevated rights.
            if error.code != _ACCESS_DENIED or elevation.is_elevated():
                raise
            elevation.write_elevated(self.kind, self.name, value)

    def describe(self, before: Any, after: Any) -> str:
        if after is None:
            return f"stop vmdns and delete the task {self.name}"
        return f"{'create' if before is None else 'change'} the task {self.name}: starts vmdns now and at each log-on"


SETTINGS = {LogonTask.kind: LogonTask}


def check_system() -> None:
    """Windows always has Task Scheduler."""


def plan_service(program: ServiceProgram) -> Plan:
    """The task."""
    return [(LogonTask(service_name(program.owner.name)), task_value(program, _own_security_id()))], []


def _own_security_id() -> str:
    """The security identifier of the user who runs this."""
    if sys.platform != "win32":
        raise NotImplementedError
    import win32api
    import win32security

    token = win32security.OpenProcessToken(win32api.GetCurrentProcess(), win32security.TOKEN_QUERY)
    return str(
        win32security.ConvertSidToStringSid(win32security.GetTokenInformation(token, win32security.TokenUser)[0])
    )


def read_status(owner: ServiceOwner) -> dict[str, Any]:
    """Whether the task is there, enabled and runs, since when (Unix seconds), its last log lines. Raises OSError."""
    found = _find_task(service_name(owner.name))
    if found is None:
        state = task_state(None, None, 0)
    else:
        with _com_errors("be asked"):
            state = task_state(found.State, found.LastRunTime, found.LastTaskResult)
    return {**state, "log": read_last_lines(log_file())}


def task_state(state: int | None, started: datetime | None, result: int) -> dict[str, Any]:
    """The state of the service from the TASK_STATE (None without a task), the time of the last start (a local time,
    whatever time zone COM gave it) and the last result."""
    running = state == _RUNNING
    return {
        "installed": state is not None,
        "enabled": state is not None and state != _DISABLED,
        "running": running,
        "pid": 0,
        "since": started.replace(tzinfo=None).timestamp() if running and started else None,
        "detail": "" if running or not result else f"it ended with status {result & 0xFFFFFFFF:#x}",
    }
