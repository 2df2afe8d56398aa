"""Sends requests to this user's running vmdns, wherever its control channel may be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from vmdns.commands import NOT_RUNNING, CommandError, command_name
from vmdns.control import client
from vmdns.control.client import DEMO, ControlError, NotRunning, instance_key
from vmdns.host.folders import control_folders

ANSWER_SECONDS = 10.0
QUERY_SECONDS = 35.0  # for `ask`: the server waits for its upstreams for 30 at most

T = TypeVar("T")


class RunningServer:
    """The running vmdns that a command means.

    simulation: what the last response said of itself, "" for a real one; missing: why no vmdns answered, once so.
    """

    def __init__(self, home: str = "", *, demo: bool = False) -> None:
        """home: the VirtualBox home of that vmdns, "" for the one that runs: `vmdns demo` where no other does.
        demo: the one of `vmdns demo` is meant."""
        self.simulation = ""
        self.missing = ""
        self._demo = demo
        self._keys = [DEMO] if demo else [instance_key(os.path.expanduser(home))] if home else [None, DEMO]

    def request(self, message: dict[str, Any]) -> dict[str, Any]:
        """The response. Raises `CommandError`, also where no vmdns runs."""
        seconds = QUERY_SECONDS if message["do"] == "ask" else ANSWER_SECONDS
        return self._checked(self._reach(lambda folder, key: client.request(folder, key, message, seconds)))

    def request_if_running(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """The response, or None where no vmdns runs and no simulation is meant. Raises `CommandError`."""
        try:
            return self.request(message)
        except CommandError as error:
            if error.status != NOT_RUNNING or self._demo:
                raise
            self.missing = error.what
            return None

    def stream(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The lines of a response that lasts. Raises `CommandError`, at the latest when that vmdns ends."""
        lines = self._reach(lambda folder, key: client.stream(folder, key, message))
        try:
            for line in lines:
                yield line if "change" in line else self._checked(line)
        except ControlError as error:
            raise CommandError(str(error)) from None
        raise CommandError("vmdns has ended", NOT_RUNNING)

    def refuse_simulation(self) -> None:
        """Keeps a command from changing this computer for the sake of VMs that do not exist. Raises `CommandError`."""
        if self.simulation:
            raise CommandError(
                "this is a simulation (vmdns demo), for which nothing is changed; stop it and start: vmdns run"
            )

    def _reach(self, send: Callable[[Path, str | None], T]) -> T:
        """What `send` returns for the first folder and key at which a vmdns is there."""
        missing = "no vmdns demo runs" if self._demo else ""
        for key in self._keys:
            for folder in control_folders():
                try:
                    return send(folder, key)
                except NotRunning as error:
                    missing = missing or str(error)
                except ControlError as error:
                    raise CommandError(str(error)) from None
        start = "demo" if self._demo else "run"
        raise CommandError(f"{missing}; start one with: {command_name()} {start}", NOT_RUNNING)

    def _checked(self, response: dict[str, Any]) -> dict[str, Any]:
        if "error" in response:
            raise CommandError(str(response["error"]))
        self.simulation = str(response.get("simulation", ""))
        return response
