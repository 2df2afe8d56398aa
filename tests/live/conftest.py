"""The tests here need a real VirtualBox; without one they skip and say so."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.lab import DOOR, Lab
from vmdns.sources.installation import find


@pytest.hookimpl(tryfirst=True)  # before those of other marks are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = "" if _may_bind(DOOR) else f"{DOOR} is no address of this host: tools/live gives it one, as root"
    reason = reason if os.name == "posix" else "the lab drives processes as POSIX has them"
    if not reason and find(os.environ) is None:
        reason = "no VirtualBox on this machine"
    for item in items:
        if "tests/live/" not in item.path.as_posix() or item.path.name.startswith("test_mdns"):
            continue  # test_mdns.py makes namespaces by name and needs no VirtualBox
        item.add_marker(pytest.mark.live)
        if reason and not item.path.name.startswith(("test_natlab", "test_windows")):
            item.add_marker(pytest.mark.skip(reason=reason))


def _may_bind(address: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        try:
            one.bind((address, 0))
        except OSError:
            return False
    return True


@pytest.fixture
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    # Short: VirtualBox puts sockets and files of long names below it.
    made = Lab(Path(tmp_path_factory.mktemp("lab")))
    try:
        yield made
    finally:
        made.close()
