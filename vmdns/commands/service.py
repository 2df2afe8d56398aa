"""`vmdns service`: plans, installs and removes the service that starts `vmdns run` with the user's session."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vmdns.files import lock_path
from vmdns.host import plan
from vmdns.host.folders import has_vms, state_folder
from vmdns.host.service_program import ServiceOwner, check_program, find_owner, service_program
from vmdns.sources.installation import user_home

if sys.platform == "win32":
    from vmdns.host import task_scheduler as system
elif sys.platform == "darwin":
    from vmdns.host import launchd as system
else:
    from vmdns.host import systemd as system

SCOPE = "service"


def status() -> dict[str, Any]:
    """The response of `vmdns service status`: whether it is installed, enabled and runs, since when (Unix seconds), and
    the last lines of its log. Raises OSError where there can be no service."""
    user = _find_user()
    system.check_system()
    return {"service": system.service_name(user.name), "user": user.name, **system.read_status(user)}


def change(
    action: str, options: Sequence[str], agreed: Callable[[dict[str, Any]], bool], log: Callable[[str], None]
) -> dict[str, Any]:
    """The response of `vmdns service`: action is install, with options of `vmdns run`, or uninstall. agreed gets the
    response before anything is done, and decides whether it is. Raises OSError."""
    user = _find_user()
    system.check_system()
    journal = plan.Journal(state_folder(home=user.home) / "journal.json")
    wanted = None
    if action == "install":
        program = service_program(user, options, os.environ)
        check_program(program)
        wanted = system.plan_service(program)

    def confirmed(response: dict[str, Any]) -> bool:
        if action == "uninstall" and not journal.entries(SCOPE) and system.read_status(user)["installed"]:
            name = system.service_name(user.name)
            response["left"].append(f"{name} is there, and vmdns has no record of having made it; remove it yourself")
        return agreed(response)

    try:
        return plan.change(wanted, journal, SCOPE, system.SETTINGS, confirmed, log)
    finally:
        _give_to(user, journal)


def _find_user() -> ServiceOwner:
    """The user whose service is meant, also with sudo."""
    if sys.platform == "win32":
        import getpass

        return ServiceOwner(getpass.getuser(), 0, Path.home())
    return find_owner(os.environ, os.geteuid(), lambda one: has_vms(user_home({**os.environ, "HOME": str(one.home)})))


def _give_to(user: ServiceOwner, journal: plan.Journal) -> None:
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
    given = vars(parser.parse_args(words))
    found: list[str] = []
    for action in parser._actions:
        value = given.get(action.dest)
        for one in value if isinstance(value, list) else [value] if value else []:
            path = action.metavar in ("FILE", "DIR")
            found += action.option_strings[-1:]
            found += [] if one is True else [os.path.abspath(os.path.expanduser(one)) if path else one]
    return found
