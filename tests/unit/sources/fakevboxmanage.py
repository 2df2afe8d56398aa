"""A program that stands for VBoxManage: it prints what a test gave it, and logs its calls."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_SCRIPT = r"""#!/bin/sh
here=${0%/*}
read -r input
printf '%s\t%s\t%s\t%s\t%s\n' "$*" "$LC_ALL" "$VBOX_USER_HOME" "$input" $$ >>"$here/asked"
name=$here/plays/$(printf %s "$*" | tr '/* ' '_+.')
if [ -e "$name.once" ]; then
    rm "$name.once"
    echo 'VBoxManage: error: only once' >&2
    exit 1
fi
if [ -e "$name.hang" ]; then
    rm "$name.hang"
    exec sleep 600
fi
if [ ! -e "$name.end" ]; then
    echo 'VBoxManage: error: Unknown command' >&2
    exit 2
fi
cat "$name.out"
cat "$name.err" >&2
. "$name.end"
"""


class Call(NamedTuple):
    """One call: its arguments, what mattered of its environment, its standard input, its process id."""

    words: str
    locale: str
    home: str
    input: str
    pid: int


class FakeVBoxManage:
    """Lies in a folder with a VBoxSVC beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "plays").mkdir(parents=True)
        self.path = folder / "VBoxManage"
        self.path.write_text(_SCRIPT)
        self.path.chmod(0o755)
        (folder / "VBoxSVC").write_text("")

    def plays(self, words: str, out: str = "", *, err: str = "", status: int = 0, hangs: bool = False) -> None:
        """From now on these arguments give this."""
        end = "exec sleep 600\n" if hangs else f"exit {status}\n"
        for suffix, text in ((".out", out), (".err", err), (".end", end)):
            # Replaced as a whole, for a test that changes the world while the reader waits.
            new = self.folder / "new"
            new.write_bytes(text.encode("utf-8", "surrogateescape"))
            os.replace(new, self._name(words, suffix))

    def fails_once(self, words: str) -> None:
        """The next call with these arguments fails."""
        self._name(words, ".once").touch()

    def hangs_once(self, words: str) -> None:
        """The next call with these arguments does not end."""
        self._name(words, ".hang").touch()

    def log(self) -> list[Call]:
        """All calls until now."""
        try:
            lines = (self.folder / "asked").read_text("utf-8").splitlines()
        except FileNotFoundError:
            return []
        fields = (line.split("\t") for line in lines)
        return [Call(words, locale, home, read, int(pid)) for words, locale, home, read, pid in fields]

    def calls(self) -> list[str]:
        """The arguments of all calls until now."""
        return [one.words for one in self.log()]

    def _name(self, words: str, suffix: str) -> Path:
        return self.folder / "plays" / (words.translate(str.maketrans("/* ", "_+.")) + suffix)
