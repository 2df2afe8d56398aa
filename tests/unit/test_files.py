"""Files that others write meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vmdns.files import _open_shared, read_regular


def test_a_file_that_is_read_can_be_replaced_meanwhile(tmp_path: Path) -> None:
    """As VirtualBox does it: the old file gets another name, the new one takes its place."""
    file, previous, fresh = (
        tmp_path / name for name in ("가상 머신.vbox", "가상 머신.vbox-prev", "가상 머신.vbox-tmp")
    )
    file.write_bytes(b"old")
    fresh.write_bytes(b"new")
    handle = _open_shared(file)
    try:
        file.rename(previous)
        fresh.rename(file)
        assert read_regular(file, 100) == b"new"
        previous.unlink()
        assert os.read(handle, 100) == b"old"
    finally:
        os.close(handle)


def test_bytes_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1\r\n\x1a\xff2\n")
    assert read_regular(tmp_path / "file", 100) == b"1\r\n\x1a\xff2\n"


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        read_regular(tmp_path / "none", 100)
    assert caught.value.filename == str(tmp_path / "none")
    with pytest.raises(OSError):
        read_regular(tmp_path, 100)
