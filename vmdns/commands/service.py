"""`vmdns service`: plans, installs and removes the service that starts `vmdns run` with the user's session."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class UserService:
    """The service of one user, as the service manager of this system has it.

    settings gives what starts a program, in order; kinds makes the settings of the journal from their names. status:
    whether it is installed, enabled and runs, since when (Unix seconds), and the last lines of its log.
    """

    name: str
    settings: Callable[[ServiceProgram], list[tuple[plan.Setting, Any]]]
    kinds: Mapping[str, Callable[[str], plan.Setting]]
    status: Callable[[], dict[str, Any]]
    note: str = ""

    def make(self, kind: str, name: str) -> plan.Setting:
        """The setting that an entry of the journal means. Raises OSError for one that this version does not know."""
        if kind not in self.kinds:
            raise OSError(f"the journal names {kind} {name}, which this vmdns does not know")
        return self.kinds[kind](name)


def find_service(user: ServiceOwner) -> UserService:
    """The user's service on this system. Raises `ServiceUnavailable` where there can be none."""
    if sys.platform == "win32":
        return _logon_task(user)
    if sys.platform == "darwin":
        if os.geteuid() == 0:
            raise ServiceUnavailable("an agent of the user needs no rights; run this without sudo")
        return _launch_agent(user)
    if not _SYSTEMD.is_dir():
        raise ServiceUnavailable(
            "this computer is not run by systemd; have your desktop start `vmdns run` when you log in"
        )
    return _systemd_unit(user)


def _systemd_unit(user: ServiceOwner) -> UserService:
    from vmdns.host import systemd_unit as systemd

    name = systemd.unit_name(user.name)

    def settings(program: ServiceProgram) -> list[tuple[plan.Setting, Any]]:
        files = [
            (systemd.worker_name(user.name), systemd.worker_unit(program)),
            (systemd.socket_name(user.name), systemd.socket_unit(program)),
            (name, systemd.server_unit(program)),
        ]
        units = [(systemd.unit_file(f"{systemd.FOLDER}/{file}"), text) for file, text in files]
        return [*units, (systemd.Enabled(name), True)]

    linger = f"`sudo loginctl enable-linger {user.name}` keeps it from start to shutdown"
    kinds: dict[str, Callable[[str], plan.Setting]] = {
        "service-unit": systemd.unit_file,
        "service-enabled": systemd.Enabled,
    }
    note = f"it ends when {user.name} has logged out; {linger}"
    return UserService(name, settings, kinds, lambda: systemd.status(name), note)


def _launch_agent(user: ServiceOwner) -> UserService:
    from vmdns.host import launchd

    def agent(name: str) -> launchd.LaunchAgent:
        return launchd.LaunchAgent(name, user.uid)

    return UserService(
        launchd.LABEL,
        lambda program: [(agent(str(launchd.agent_path(user.home))), launchd.render_plist(program))],
        {"launch-agent": agent},
        lambda: launchd.status(user.uid, user.home),
        "macOS may keep port 53 from an agent; vmdns then uses a port of 5300-5399 and logs it",
    )


def _logon_task(user: ServiceOwner) -> UserService:
    from vmdns.commands.standard_streams import log_file
    from vmdns.host import task_scheduler
    from vmdns.host.launchd import tail

    name = task_scheduler.task_name(user.name)
    return UserService(
        name,
        lambda program: [(task_scheduler.LogonTask(name), task_scheduler.wanted(program))],
        {"logon-task": task_scheduler.LogonTask},
        lambda: task_scheduler.status(name, tail(log_file())),
    )


def status() -> dict[str, Any]:
    """The response of `vmdns service status`. Raises `ServiceUnavailable`."""
    user = find_owner()
    service = find_service(user)
    return {"service": service.name, "user": user.name, **service.status()}


def change(
    action: str, options: Sequence[str], agreed: Callable[[dict[str, Any]], bool], log: Callable[[str], None]
) -> dict[str, Any]:
    """The response of `vmdns service`: action is install, with options of `vmdns run`, or uninstall. agreed gets the
    response before anything is done, and decides whether it is. Raises `ServiceUnavailable`, OSError."""
    user = find_owner()
    service = find_service(user)
    journal = Journal(state_folder(home=user.home) / "journal.json")
    left: list[str] = []
    if action == "install":
        program = ServiceProgram(user, command(options), environment(os.environ))
        check(program)
        steps = plan.plan(service.settings(program))
    else:
        steps, left = plan.undo_plan(journal, SCOPE, service.make)
        if not journal.entries(SCOPE) and service.status()["installed"]:
            left.append(f"{service.name} is there, and vmdns has no record of having made it; remove it yourself")
    notes = [service.note] if service.note and steps and action == "install" else []
    response = {"steps": [one.as_json() for one in steps], "left": left, "notes": notes, "done": False}
    if agreed(response) and steps:
        try:
            if action == "install":
                plan.apply(steps, journal, SCOPE, log)
            else:
                plan.undo(journal, SCOPE, service.make, log)
        finally:
            _give_to(user, journal)
        response["done"] = True
    return response


def find_owner() -> ServiceOwner:
    """The user whose service is meant, also with sudo."""
    if sys.platform == "win32":
        import getpass

        return ServiceOwner(getpass.getuser(), 0, Path.home())
    return owner(os.environ, os.geteuid(), lambda one: has_vms(user_home({**os.environ, "HOME": str(one.home)})))


def _give_to(user: ServiceOwner, journal: Journal) -> None:
    """With sudo, gives the journal to the user whose it is."""
    if sys.platform == "win32" or os.geteuid() != 0 or user.uid == 0:
        return
    own = [lock_path(journal.path), journal.path, *journal.path.parents]
    for path in own[: own.index(user.home)] if user.home in own else own[:3]:
        if path.exists() and path.stat().st_uid == 0:
            os.chown(path, user.uid, -1)


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
