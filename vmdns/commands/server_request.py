"""Sends requests to this user's running vmdns, wherever its control channel may be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from vmdns.commands import NOT_RUNNING, CommandError, command_name
from vmdns.control import client as control_client
from vmdns.control.client import DEMO, ControlError, NotRunning, instance_key
from vmdns.host.folders import control_folders

ANSWER_SECONDS = 10.0
ASK_SECONDS = 35.0  # for a question: the server asks its upstreams for 30 at most

T = TypeVar("T")


def request(home: str, message: dict[str, Any]) -> dict[str, Any]:
    """The response of the vmdns for that VirtualBox home, "" for the one that runs: `vmdns demo` where no other does.
    DEMO in place of a home means that one alone.

    Raises `NotRunning`, or `ControlError` where it does not answer in time.
    """
    seconds = ASK_SECONDS if message["do"] == "ask" else ANSWER_SECONDS
    return _first(home, lambda folder, key: control_client.request(folder, key, message, seconds))


def stream(home: str, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of a response that lasts. Raises as `request` does."""
    return _first(home, lambda folder, key: control_client.stream(folder, key, message))


def _first(home: str, ask: Callable[[Path, str | None], T]) -> T:
    key = DEMO if home == DEMO else instance_key(os.path.expanduser(home)) if home else None
    folders = control_folders()
    places = [(folder, key) for folder in folders]
    if key is None:
        places += [(folder, DEMO) for folder in folders]
    missing: NotRunning | None = None
    for folder, one in places:
        try:
            return ask(folder, one)
        except NotRunning as error:
            missing = missing or error
    assert missing is not None
    raise missing


class RunningServer:
    """The running vmdns that a command means.

    simulation: what the last response said of itself, "" for a real one; missing: why no vmdns answered, once so.
    """

    def __init__(self, home: str, *, demo: bool = False) -> None:
        """home: the VirtualBox home of that vmdns, "" for any; demo: the one of `vmdns demo` is meant."""
        self.simulation = ""
        self.missing = ""
        self._home = DEMO if demo else home
        self._demo = demo

    def request(self, message: dict[str, Any]) -> dict[str, Any]:
        """The response. Raises `CommandError`, also where no vmdns runs."""
        try:
            return self._checked(request(self._home, message))
        except NotRunning as error:
            raise self.not_running(error) from None
        except ControlError as error:
            raise CommandError(str(error)) from None

    def request_if_running(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """The response, or None where no vmdns runs and no simulation is meant. Raises `CommandError`."""
        try:
            return self._checked(request(self._home, message))
        except NotRunning as error:
            if self._demo:
                raise self.not_running(error) from None
            self.missing = str(error)
            return None
        except ControlError as error:
            raise CommandError(str(error)) from None

    def stream(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The lines of a response that lasts. Raises `NotRunning`, `ControlError`, and `CommandError` for an error."""
        for line in stream(self._home, message):
            yield line if "change" in line else self._checked(line)

    def refuse_simulation(self) -> None:
        """Keeps a command from changing this computer for the sake of VMs that do not exist. Raises `CommandError`."""
        if self.simulation:
            raise CommandError(
                "this is a simulation (vmdns demo), for which nothing is changed; stop it and start: vmdns run"
            )

    def not_running(self, error: Exception) -> CommandError:
        """The error that says how to start one."""
        if self._demo:
            return CommandError(f"no vmdns demo runs; start one with: {command_name()} demo", NOT_RUNNING)
        return CommandError(f"{error}; start one with: {command_name()} run", NOT_RUNNING)

    def _checked(self, response: dict[str, Any]) -> dict[str, Any]:
        if "error" in response:
            raise CommandError(str(response["error"]))
        self.simulation = str(response.get("simulation", ""))
        return response
