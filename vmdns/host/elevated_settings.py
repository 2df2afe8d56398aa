"""The process with administrator rights that writes settings of Windows for a vmdns without them (elevation.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vmdns.host import resolver_windows, task_scheduler
from vmdns.host.elevation import serve_requests

SETTINGS = resolver_windows.SETTINGS | task_scheduler.SETTINGS


def write(request: Any) -> None:
    """Writes the setting of a request: {"kind", "name", "value"}. Raises OSError."""
    if request["kind"] not in SETTINGS:
        raise OSError(f"an administrator's vmdns cannot change {request['kind']} settings")
    SETTINGS[request["kind"]](request["name"]).write(request["value"])


def main(arguments: Sequence[str]) -> None:
    """Writes settings until vmdns ends."""
    serve_requests(arguments, write)
