"""Reaches this user's running vmdns, wherever its control channel may be."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from vmdns.host.folders import control_folders
from vmdns.serve import control_client
from vmdns.serve.control_client import NotRunning, instance_key

ANSWER_SECONDS = 35.0  # the server asks its upstreams for 30 at most

T = TypeVar("T")


def request(home: str, message: dict[str, Any]) -> dict[str, Any]:
    """The response of the vmdns for that VirtualBox home, "" for the one that runs.

    Raises `NotRunning`, or `ControlError` where it does not answer.
    """
    return _first(home, lambda folder, key: control_client.request(folder, key, message, ANSWER_SECONDS))


def stream(home: str, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of a response that lasts. Raises as `request` does."""
    return _first(home, lambda folder, key: control_client.stream(folder, key, message))


def _first(home: str, ask: Callable[[Path, str | None], T]) -> T:
    key = instance_key(os.path.expanduser(home)) if home else None
    *folders, last = control_folders()
    for folder in folders:
        with contextlib.suppress(NotRunning):
            return ask(folder, key)
    return ask(last, key)
