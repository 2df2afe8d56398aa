"""Runs a system command, with the rights it needs: asked for once, and only where they are needed.

The part for Windows is written by its documentation and was not run there.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

from vmdns.state.program_output import decode_console

PATIENCE_SECONDS = 120.0  # someone may have to type a password


class Denied(PermissionError):
    """A right is missing that could not be asked for; the text has the command line to run by hand."""


def is_elevated() -> bool:
    """Whether this process may change the system's settings."""
    if sys.platform == "win32":
        import ctypes

        return bool(ctypes.windll.shell32.IsUserAnAdmin())
    return os.geteuid() == 0


def shown(command: Sequence[str], *, elevated: bool) -> str:
    """The command line as a user would type it."""
    if sys.platform == "win32":
        return subprocess.list2cmdline(command)
    return ("sudo " if elevated and not is_elevated() else "") + shlex.join(command)


def run(command: Sequence[str], *, elevated: bool = False, text: str = "") -> str:
    """Runs a command and returns its output. text goes to its standard input (not with elevation on Windows).

    Raises `Denied` where a right is missing and cannot be asked for, OSError with the command's own words otherwise.
    """
    argv = list(command)
    if elevated and not is_elevated():
        argv = with_rights(argv)
    try:
        done = subprocess.run(
            argv,
            input=text.encode(errors="surrogateescape"),
            capture_output=True,
            timeout=PATIENCE_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError:
        raise OSError(f"{argv[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise OSError(f"{shown(command, elevated=elevated)} did not end within {PATIENCE_SECONDS:.0f} s") from None
    if done.returncode:
        texts = (decode_console(raw, sys.platform).strip() for raw in (done.stderr, done.stdout))
        said = next(filter(None, texts), "")
        raise OSError(
            f"{shown(command, elevated=elevated)} failed: {said.splitlines()[-1] if said else done.returncode}"
        )
    return decode_console(done.stdout, sys.platform)


def can_ask() -> bool:
    """Whether there is someone who could be asked for the right."""
    return sys.platform == "win32" or (shutil.which("sudo") is not None and sys.stdin.isatty())


def with_rights(argv: list[str]) -> list[str]:
    """The command with the system's way to ask for rights before it. Raises `Denied` where it cannot ask."""
    if sys.platform == "win32":
        # One prompt of User Account Control for each command; -Wait keeps the order.
        line = subprocess.list2cmdline(argv[1:])
        quoted = line.replace("'", "''")
        start = (
            f"exit (Start-Process -FilePath '{argv[0]}' -ArgumentList '{quoted}' -Verb RunAs -Wait -PassThru).ExitCode"
        )
        return ["powershell", "-NoProfile", "-Command", start]
    sudo = shutil.which("sudo")
    if sudo is None:
        raise Denied(f"this needs root; run as root: {shlex.join(argv)}")
    if not sys.stdin.isatty():
        raise Denied(f"this needs root; run: sudo {shlex.join(argv)}")
    return [sudo, "--", *argv]
