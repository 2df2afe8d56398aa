"""Reads keys of the registry below HKEY_LOCAL_MACHINE, which needs no rights: those of 64 bits, whatever Python is."""

from __future__ import annotations

import sys
from collections.abc import Mapping

# Values by their names, by the path of the key.
Registry = Mapping[str, Mapping[str, object]]


def read_key(path: str) -> dict[str, object]:
    """The values of a key. Raises FileNotFoundError, or another OSError."""
    if sys.platform != "win32":
        raise NotImplementedError
    import winreg

    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path, 0, winreg.KEY_READ | winreg.KEY_WOW64_64KEY) as key:
        return {
            name: value for name, value, _ in (winreg.EnumValue(key, at) for at in range(winreg.QueryInfoKey(key)[1]))
        }


def read_tree(path: str) -> dict[str, Mapping[str, object]]:
    """The values of a key and of all keys below it, by path; none where it does not exist or may not be read."""
    if sys.platform != "win32":
        raise NotImplementedError
    import winreg

    try:
        found: dict[str, Mapping[str, object]] = {path: read_key(path)}
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path, 0, winreg.KEY_READ | winreg.KEY_WOW64_64KEY) as key:
            names = [winreg.EnumKey(key, at) for at in range(winreg.QueryInfoKey(key)[0])]
    except OSError:
        return {}
    for name in names:
        found |= read_tree(rf"{path}\{name}")
    return found
