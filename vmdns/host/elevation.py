"""Runs system commands, with elevated rights where needed (sudo, User Account Control).

The part for Windows is written from its documentation and was never run.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

from vmdns.files import decode_console

COMMAND_SECONDS = 120.0  # the user may have to type a password


class ElevationDenied(PermissionError):
    """Elevated rights are needed and cannot be requested; the text has the command line to run by hand."""


def is_elevated() -> bool:
    """Whether this process may change the system's settings."""
    if sys.platform == "win32":
        import ctypes

        return bool(ctypes.windll.shell32.IsUserAnAdmin())
    return os.geteuid() == 0


def can_elevate() -> bool:
    """Whether this process has elevated rights, or can request them."""
    return is_elevated() or sys.platform == "win32" or (shutil.which("sudo") is not None and sys.stdin.isatty())


def format_command(command: Sequence[str], *, elevated: bool) -> str:
    """The command line as a user would type it, for PowerShell its own line."""
    if command[0] == "powershell":
        return command[-1]
    if sys.platform == "win32":
        return subprocess.list2cmdline(command)
    return ("sudo " if elevated and not is_elevated() else "") + shlex.join(command)


def run(command: Sequence[str], *, elevated: bool = False, text: str = "") -> str:
    """Runs a command and returns its output; text goes to its standard input (not with elevation on Windows).

    Raises `ElevationDenied`, and OSError with the command's own message.
    """
    argv = elevate_command(command) if elevated and not is_elevated() else list(command)
    line = format_command(command, elevated=elevated)
    try:
        done = subprocess.run(
            argv,
            input=text.encode(errors="surrogateescape"),
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError:
        raise OSError(f"{argv[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise OSError(f"{line} did not end within {COMMAND_SECONDS:.0f} s") from None
    if done.returncode:
        texts = (decode_console(raw, sys.platform).strip() for raw in (done.stderr, done.stdout))
        message = next(filter(None, texts), str(done.returncode))
        raise OSError(f"{line} failed: {message.splitlines()[-1]}")
    return decode_console(done.stdout, sys.platform)


def read_output(*command: str) -> str:
    """The standard output, untranslated, of a command that needs no rights, whatever its exit status; '' if it cannot
    be run."""
    environ = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=20.0, check=False, env=environ
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    # schtasks writes XML in UTF-16 to a pipe on some versions of Windows, in the console's code page on others.
    if done.stdout[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return done.stdout.decode("utf-16", "replace")
    return decode_console(done.stdout, sys.platform)


def elevate_command(command: Sequence[str]) -> list[str]:
    """The command with elevation, such as `sudo` before it. Raises `ElevationDenied` where that cannot work."""
    if sys.platform == "win32":
        # One User Account Control prompt for each command; -Wait keeps the order.
        arguments = subprocess.list2cmdline(command[1:]).replace("'", "''")
        start = f"Start-Process -FilePath '{command[0]}' -ArgumentList '{arguments}' -Verb RunAs -Wait -PassThru"
        return ["powershell", "-NoProfile", "-Command", f"exit ({start}).ExitCode"]
    sudo = shutil.which("sudo")
    if sudo is None:
        raise ElevationDenied(f"this needs root; run as root: {shlex.join(command)}")
    if not sys.stdin.isatty():
        raise ElevationDenied(f"this needs root; run: sudo {shlex.join(command)}")
    return [sudo, "--", *command]
