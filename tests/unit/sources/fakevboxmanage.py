"""What stands for VBoxManage: it prints what a test gave it, and logs its calls."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fakeprogram import SUFFIX, play_program


class Call(NamedTuple):
    """One call: its arguments, and VBOX_USER_HOME of its environment."""

    words: str
    home: str


class FakeVBoxManage:
    """Lies in a folder with a VBoxSVC beside it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, suffix: str = SUFFIX) -> None:
        self.folder = folder
        folder.mkdir()
        self.path = folder / f"VBoxManage{suffix}"
        for file in (self.path, folder / f"VBoxSVC{suffix}"):
            file.write_text("")
            file.chmod(0o755)
        self.log: list[Call] = []
        self._plays: dict[str, tuple[int, str, str]] = {}
        self._once: set[str] = set()
        play_program(monkeypatch, self.path, self._call)

    def plays(self, words: str, out: str = "", *, err: str = "", status: int = 0) -> None:
        """From now on these arguments give this."""
        self._plays[words] = status, out, err

    def fails_once(self, words: str) -> None:
        """The next call with these arguments fails."""
        self._once.add(words)

    def calls(self) -> list[str]:
        """The arguments of all calls until now."""
        return [one.words for one in self.log]

    def _call(self, arguments: list[str], environ: Mapping[str, str]) -> tuple[int, str, str]:
        words = " ".join(arguments)
        self.log.append(Call(words, environ.get("VBOX_USER_HOME", "")))
        if words in self._once:
            self._once.remove(words)
            return 1, "", "VBoxManage: error: only once\n"
        return self._plays.get(words, (2, "", "VBoxManage: error: Unknown command\n"))
