"""`vmdns service`: plans, installs and removes the service that starts `vmdns run` with the user's session."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vmdns.host import plan
from vmdns.host.folders import state_folder
from vmdns.host.journal import Journal
from vmdns.host.program import (
    ServiceOwner,
    ServiceProgram,
    ServiceUnavailable,
    check,
    command,
    environment,
    has_vms,
    owner,
)
from vmdns.host.state_file import lock_path
from vmdns.sources.installation import user_home

SCOPE = "service"
_SYSTEMD = Path("/run/systemd/system")

Say = Callable[[str], None]


def run_options(parser: argparse.ArgumentParser, words: Sequence[str]) -> list[str]:
    """The options of `vmdns run` among the words, written out, with absolute paths. Ends the program where they are
    none, as the parser does."""
    given = parser.parse_args(words)
    found: list[str] = []
    for action in parser._actions:
        flag = next((one for one in action.option_strings if one.startswith("--")), "")
        value = getattr(given, action.dest, None)
        if not flag or not value:
            continue
        for one in value if isinstance(value, list) else [value]:
            path = action.metavar in ("FILE", "DIR")
            found += [flag] if one is True else [flag, os.path.abspath(os.path.expanduser(one)) if path else one]
    return found


class UserService:
    """The service of one user on this computer. Raises `ServiceUnavailable` where there can be none."""

    def __init__(self) -> None:
        self.owner = _owner()
        self.journal = Journal(state_folder(home=self.owner.home) / "journal.json")
        if sys.platform not in ("win32", "darwin") and not _SYSTEMD.is_dir():
            raise ServiceUnavailable(
                "this computer is not run by systemd; have your desktop start `vmdns run` when you log in"
            )
        if sys.platform == "darwin" and os.geteuid() == 0:
            raise ServiceUnavailable("an agent of the user needs no rights; run this without sudo")

    @property
    def name(self) -> str:
        """What the system calls it."""
        if sys.platform == "win32":
            from vmdns.host.task_scheduler import task_name

            return task_name(self.owner.name)
        if sys.platform == "darwin":
            from vmdns.host.launchd import LABEL

            return LABEL
        from vmdns.host.systemd_unit import unit_name

        return unit_name(self.owner.name)

    def wanted(self, options: Sequence[str]) -> list[tuple[plan.Setting, Any]]:
        """The settings that start `vmdns run` with these options. Raises `ServiceUnavailable`."""
        program = ServiceProgram(self.owner, command(options), environment(os.environ))
        check(program)
        if sys.platform == "win32":
            from vmdns.host import task_scheduler as task

            return [(task.LogonTask(self.name), task.wanted(program))]
        if sys.platform == "darwin":
            from vmdns.host import launchd as launchagent

            agent = launchagent.LaunchAgent(str(launchagent.agent_path(self.owner.home)), self.owner.uid)
            return [(agent, launchagent.render_plist(program))]
        from vmdns.host import systemd_unit

        user = self.owner.name
        files = [
            (systemd_unit.worker_name(user), systemd_unit.worker_unit(program)),
            (systemd_unit.socket_name(user), systemd_unit.socket_unit(program)),
            (self.name, systemd_unit.server_unit(program)),
        ]
        return [
            *((systemd_unit.unit_file(f"{systemd_unit.FOLDER}/{name}"), text) for name, text in files),
            (systemd_unit.Enabled(self.name), True),
        ]

    def make(self, kind: str, name: str) -> plan.Setting:
        """The setting that an entry of the journal means. Raises OSError for one that this version does not know."""
        if kind in ("service-unit", "service-enabled"):
            from vmdns.host import systemd_unit

            return systemd_unit.unit_file(name) if kind == "service-unit" else systemd_unit.Enabled(name)
        if kind == "launch-agent":
            from vmdns.host.launchd import LaunchAgent

            return LaunchAgent(name, self.owner.uid)
        if kind == "logon-task":
            from vmdns.host.task_scheduler import LogonTask

            return LogonTask(name)
        raise OSError(f"the journal names {kind} {name}, which this vmdns does not know")

    def install(self, options: Sequence[str]) -> list[plan.Step]:
        """The steps to a service that starts vmdns with these options. Raises `ServiceUnavailable`, OSError."""
        return plan.plan(self.wanted(options))

    def uninstall(self) -> tuple[list[plan.Step], list[str]]:
        """The steps that remove it, and sentences on what is left as it is. Raises OSError."""
        steps, left = plan.undo_plan(self.journal, SCOPE, self.make)
        if not self.journal.entries(SCOPE) and self.status()["installed"]:
            left.append(f"{self.name} is there, and vmdns has no record of having made it; remove it yourself")
        return steps, left

    def apply(self, steps: Sequence[plan.Step], say: Say) -> None:
        """Does the steps of `install`. Raises OSError."""
        try:
            plan.apply(steps, self.journal, SCOPE, say)
        finally:
            self._give()

    def undo(self, say: Say) -> list[str]:
        """Removes everything. Returns sentences on what is left. Raises OSError."""
        try:
            return plan.undo(self.journal, SCOPE, self.make, say)
        finally:
            self._give()

    def _give(self) -> None:
        """With sudo, gives the journal to the user whose it is."""
        if sys.platform == "win32" or os.geteuid() != 0 or self.owner.uid == 0:
            return
        own = [lock_path(self.journal.path), self.journal.path, *self.journal.path.parents]
        for path in own[: own.index(self.owner.home)] if self.owner.home in own else own[:3]:
            if path.exists() and path.stat().st_uid == 0:
                os.chown(path, self.owner.uid, -1)

    def status(self) -> dict[str, Any]:
        """Whether it is installed, enabled and runs, since when (Unix seconds), and the last lines of its log."""
        if sys.platform == "win32":
            from vmdns.commands.background import log_file
            from vmdns.host import launchd as launchagent
            from vmdns.host import task_scheduler as task

            found = task.status(self.name, launchagent.tail(log_file()))
        elif sys.platform == "darwin":
            from vmdns.host import launchd as launchagent

            found = launchagent.status(self.owner.uid, self.owner.home)
        else:
            from vmdns.host import systemd_unit

            found = systemd_unit.status(self.name)
        return {"service": self.name, "user": self.owner.name, **found}

    def notes(self) -> list[str]:
        """Notes for the user after an installation."""
        if sys.platform == "win32":
            return []
        if sys.platform == "darwin":
            return ["macOS may keep port 53 from an agent; vmdns then uses a port of 5300-5399 and logs it"]
        who = self.owner.name
        return [
            f"it ends when {who} has logged out; `sudo loginctl enable-linger {who}` keeps it from start to shutdown"
        ]


def run_command(
    action: str, options: Sequence[str], agreed: Callable[[dict[str, Any]], bool], say: Say
) -> dict[str, Any]:
    """The response of `vmdns service`: action is install or uninstall; agreed gets the response before anything is
    done, and decides whether it is. Raises `ServiceUnavailable`, OSError."""
    one = UserService()
    steps, left = (one.install(options), []) if action == "install" else one.uninstall()
    notes = one.notes() if steps and action == "install" else []
    response = answer(steps, left, notes, done=False)
    if agreed(response) and steps:
        if action == "install":
            one.apply(steps, say)
        else:
            one.undo(say)
        response["done"] = True
    return response


def _owner() -> ServiceOwner:
    if sys.platform == "win32":
        import getpass

        return ServiceOwner(getpass.getuser(), 0, Path.home())
    uid = os.geteuid()

    def vms(one: ServiceOwner) -> bool:
        return has_vms(user_home({**os.environ, "HOME": str(one.home)}))

    return owner(os.environ, uid, vms)


def answer(steps: Sequence[plan.Step], left: Sequence[str], notes: Sequence[str], *, done: bool) -> dict[str, Any]:
    """What `install` and `uninstall` answer, as JSON values."""
    return {"steps": [one.as_json() for one in steps], "left": list(left), "notes": list(notes), "done": done}
