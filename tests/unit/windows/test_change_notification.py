"""Change notification of the registry. That of addresses was tried by hand under Wine, in a network namespace."""

from __future__ import annotations

import queue
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress

import pytest

if sys.platform != "win32":
    pytest.skip("calls of Windows", allow_module_level=True)

import winreg

from vmdns.windows.change_notification import watch_changes

ROOT = winreg.HKEY_LOCAL_MACHINE


@pytest.fixture
def key() -> Iterator[str]:
    """A key of its own, with another in it."""
    path = rf"SOFTWARE\vmdns-{uuid.uuid4()}"
    try:
        winreg.CreateKey(ROOT, path + r"\below").Close()
    except PermissionError:
        pytest.skip("needs an administrator")
    yield path
    for one in (path + r"\below", path):
        with suppress(FileNotFoundError):
            winreg.DeleteKey(ROOT, one)


def set_value(path: str, value: str) -> None:
    with winreg.OpenKey(ROOT, path, 0, winreg.KEY_SET_VALUE) as one:
        winreg.SetValueEx(one, "value", 0, winreg.REG_SZ, value)


def test_each_change_below_a_key_is_notified_of(key: str) -> None:
    calls: queue.Queue[None] = queue.Queue()
    stop = watch_changes(lambda: calls.put(None), [r"SOFTWARE\no such key", key])
    for value in ("1", "2"):
        set_value(key + r"\below", value)
        calls.get(timeout=20)
    winreg.DeleteKey(ROOT, key + r"\below")
    calls.get(timeout=20)
    stop()


def test_a_key_that_is_removed_ends_no_other(key: str) -> None:
    calls: queue.Queue[None] = queue.Queue()
    stop = watch_changes(lambda: calls.put(None), [key + r"\below", key])
    winreg.DeleteKey(ROOT, key + r"\below")
    calls.get(timeout=20)
    while True:  # both keys had a change
        set_value(key, "1")
        calls.get(timeout=20)
        if calls.empty():
            break
    stop()
