"""A small system file that only vmdns writes, and the commands that make its reader load it.

It is written to a temporary file and renamed, all in one command, so that the password is asked for once.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmdns.host import elevation
from vmdns.regular_file import read_whole

_MOST_BYTES = 1_048_576

_WRITE = """set -e
umask 022
mkdir -p "$(dirname "$1")"
cat >"$1.vmdns"
mv -f "$1.vmdns" "$1"
"""
_REMOVE = 'rm -f "$1"\n'
_REMOVE_FOLDER = 'rmdir "$(dirname "$1")" 2>/dev/null || true\n'


@dataclass(frozen=True, slots=True)
class SystemFile:
    """A `Setting` (plan.py) of Linux and macOS: the text of the file `name`; None where there is none.

    after are commands to run after writing it, before_end and after_end before and after its removal. alone: remove its
    folder too if it is empty. The first line of the text, if it is a comment, describes the file to the user.
    """

    kind: str
    name: str
    after: tuple[tuple[str, ...], ...] = ()
    before_end: tuple[tuple[str, ...], ...] = ()
    after_end: tuple[tuple[str, ...], ...] = ()
    alone: bool = False
    elevated: bool = True

    def read(self) -> str | None:
        try:
            return read_whole(Path(self.name), _MOST_BYTES).decode("utf-8", "surrogateescape")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, value: str | None) -> None:
        if value is not None:
            script = _WRITE + _lines(self.after)
        else:
            script = _lines(self.before_end) + _REMOVE + (_REMOVE_FOLDER if self.alone else "") + _lines(self.after_end)
        elevation.run(["sh", "-c", script, "sh", self.name], elevated=True, text=value or "")

    def describe(self, before: str | None, after: str | None) -> str:
        if after is None:
            return f"remove {self.name}"
        first = after.partition("\n")[0]
        purpose = f": {first.removeprefix('# ')}" if first.startswith("# ") else ""
        return f"{'write' if before is None else 'change'} {self.name}{purpose}"

    def commands(self, before: str | None, after: str | None) -> Sequence[str]:
        if after is None:
            lines = [*self.before_end, ("rm", self.name), *self.after_end]
            return [elevation.format_command(one, elevated=True) for one in lines]
        tee = elevation.format_command(["tee", self.name], elevated=True)
        return [f"{tee} <<'END'\n{after}END", *(elevation.format_command(one, elevated=True) for one in self.after)]


def _lines(commands: Sequence[Sequence[str]]) -> str:
    return "".join(shlex.join(one) + "\n" for one in commands)
