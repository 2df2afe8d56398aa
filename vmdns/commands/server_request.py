"""Reaches this user's running vmdns, wherever its control channel may be."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from vmdns.control import client as control_client
from vmdns.control.client import DEMO, NotRunning, instance_key
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
    nobody: NotRunning | None = None
    for folder, one in places:
        try:
            return ask(folder, one)
        except NotRunning as error:
            nobody = nobody or error
    assert nobody is not None
    raise nobody
