"""Programs that tests put in the place of real ones, written in Python, for every system."""

from __future__ import annotations

import ensurepip
import io
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

SUFFIX = ".exe" if sys.platform == "win32" else ""


def write_program(path: Path, source: str) -> Path:
    """Writes a program that runs this source without site-packages; returns its path, which on Windows ends in .exe.

    On Windows it is made as pip makes console scripts: a launcher, a line that names the interpreter, and an archive
    with `__main__.py` (https://packaging.python.org/en/latest/specifications/entry-points/#use-for-scripts).
    """
    if sys.platform != "win32":
        path.write_text(f"#!{sys.executable} -IS\n{source}", "utf-8")
        path.chmod(0o755)
        return path
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("__main__.py", source)
    path = path.with_name(path.name + SUFFIX)
    path.write_bytes(_launcher() + f'#!"{sys.executable}" -IS\n'.encode() + archive.getvalue())
    return path


@cache
def _launcher() -> bytes:
    """The launcher for x86-64 of the pip that CPython brings along."""
    (wheel,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    with zipfile.ZipFile(wheel) as pip:
        return pip.read("pip/_vendor/distlib/t64.exe")


Main = Callable[[list[str], Mapping[str, str]], tuple[int, str, str]]


def play_program(monkeypatch: pytest.MonkeyPatch, path: Path, main: Main) -> None:
    """Has `subprocess.run` call main instead of the program at this path: two processes take a second on Windows.

    main gets the arguments and the environment, and returns the exit status, standard output and standard error.
    """
    real = subprocess.run

    def run(command: Any, **how: Any) -> Any:
        if command[0] != str(path) or not path.exists():
            return real(command, **how)
        status, *texts = main(list(command[1:]), how["env"])
        for stream, text in zip((how["stdout"], how["stderr"]), texts, strict=True):
            stream.write(text.encode("utf-8", "surrogateescape"))
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(subprocess, "run", run)
