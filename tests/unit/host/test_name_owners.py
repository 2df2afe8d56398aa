"""The file that remembers which VM has which name."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.facts import uuid
from vmdns.host import name_owners
from vmdns.host.name_owners import NameOwners, read_owners, write_owners
from vmdns.state.name_rules import Owners

OWNERS: Owners = {("web",): uuid(1), ("web", "lab"): uuid(1), ("my_vm",): uuid(2), ("xn--pd1b38l32h",): uuid(3)}


def kept(path: Path, *owners: Owners) -> list[str]:
    """Has these owners kept one after the other. Returns the lines of the log."""
    log: list[str] = []

    async def keep() -> None:
        one = NameOwners(path, log.append)
        one.read()
        log.extend([one.trouble] if one.trouble else [])
        for each in owners:
            one.keep(each)
        await one.close()

    asyncio.run(keep())
    return log


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "names.json"
    assert kept(path, {("old",): uuid(9)}, OWNERS) == []
    assert read_owners(path) == OWNERS
    assert [one.name for one in path.parent.iterdir()] == ["names.json"]
    before = path.stat().st_mtime_ns, path.stat().st_ino
    assert kept(path, dict(OWNERS)) == []
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before, "the same owners are not written again"


def test_a_missing_file_is_no_error(tmp_path: Path) -> None:
    for path in (tmp_path / "names.json", None):
        one = NameOwners(path, pytest.fail)
        assert (one.read(), one.trouble) == ({}, "")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "damaged"),
        (b"[]", "damaged"),
        (b"\xff", "damaged"),
        (b'{"names": []}', "damaged"),
        (b'{"names": {"web": 1}}', "damaged"),
        (b"[" * 100_000, "damaged"),
        (b" " * (name_owners.MAX_BYTES + 1), "no file of vmdns"),
    ],
)
def test_a_damaged_file_is_reported_in_one_line_and_renewed(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "names.json"
    path.write_bytes(data)
    assert kept(path, OWNERS) == [f"{path} is not used, and will be written again: it is {reason}"]
    assert read_owners(path) == OWNERS
    assert kept(path) == []


def test_a_folder_in_which_nothing_can_be_written_is_reported_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log: list[str] = []

    async def keep() -> None:
        one = NameOwners(tmp_path / "file" / "names.json", log.append)
        for number in range(3):
            one.keep({("web",): uuid(number)})
            await one.close()

    asyncio.run(keep())
    (line,) = log
    assert "names of VMs are not remembered over a restart of vmdns" in line


def test_a_file_of_another_user_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `sudo vmdns` may have left one in this user's folder."""

    def denied(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    path = tmp_path / "names.json"
    path.write_text("{")
    monkeypatch.setattr(os, "chown", denied, raising=False)
    write_owners(path, OWNERS)
    assert read_owners(path) == OWNERS
