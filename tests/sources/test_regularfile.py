"""Only regular files are read, up to a bound, and nobody is waited for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vmdns.sources.hostsfile import read_hosts
from vmdns.sources.regularfile import read_regular

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither FIFOs nor devices among files")


def test_a_file_is_read_up_to_its_bound_and_one_byte_more(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")
    assert read_regular(file, 20) == b"0123456789"
    assert read_regular(file, 4) == b"01234"
    (tmp_path / "link").symlink_to(file)
    assert read_regular(tmp_path / "link", 20) == b"0123456789"


@pytest.mark.parametrize("kind", ["fifo", "zero", "folder"])
def test_nothing_else_is(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    match kind:
        case "fifo":
            os.mkfifo(path)  # nobody writes into it: an open that waits would never return
        case "zero":
            path.symlink_to("/dev/zero")
        case _:
            path.mkdir()
    for read in (lambda: read_regular(path, 100), lambda: read_hosts(path)):
        with pytest.raises(OSError):
            read()


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none", 100)
