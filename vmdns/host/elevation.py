"""Runs system commands, and processes that write settings, with elevated rights where needed: by sudo, or on Windows by
User Account Control, which asks once for each vmdns.

A process that ShellExecuteEx starts (https://learn.microsoft.com/windows/win32/api/shellapi/nf-shellapi-shellexecuteexw)
has no pipes, so it connects to a port of 127.0.0.1 and shows the token that was on its command line.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from vmdns.files import NO_WINDOW, decode_console

COMMAND_SECONDS = 120.0  # the user may have to type a password
_CONNECT_SECONDS = 30.0  # for Python to start, once the user has agreed
_RETRY_SECONDS = 0.2
_CONNECT = "--connect="  # before the port and the token
_HIDDEN = 0  # SW_HIDE
# Of ShellExecuteEx: SEE_MASK_NOCLOSEPROCESS, SEE_MASK_NOASYNC, SEE_MASK_FLAG_NO_UI.
_RUN_MASK = 0x40 | 0x100 | 0x400
_ERROR_CANCELLED = 1223  # the user declined


NO_SUDO = "this needs root, and there is no sudo or no terminal to ask for it"


class ElevationDenied(PermissionError):
    """Elevated rights are needed and were not given; the text says how to get them."""


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
    """The command line as a user would type it."""
    if sys.platform == "win32":
        return subprocess.list2cmdline(command)
    return ("sudo " if elevated and not is_elevated() else "") + shlex.join(command)


def run(command: Sequence[str], *, elevated: bool = False, text: str = "") -> str:
    """Runs a command and returns its output; text goes to its standard input. On Windows the caller has the rights.

    Raises `ElevationDenied`, and OSError with the command's own message.
    """
    sudo = elevated and sys.platform != "win32" and not is_elevated()
    argv = elevate_command(command) if sudo else list(command)
    line = format_command(command, elevated=elevated)
    try:
        done = subprocess.run(
            argv,
            input=text.encode(errors="surrogateescape"),
            capture_output=True,
            timeout=COMMAND_SECONDS,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            creationflags=NO_WINDOW,
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
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=20.0,
            check=False,
            env=environ,
            creationflags=NO_WINDOW,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return decode_console(done.stdout, sys.platform)


def elevate_command(command: Sequence[str]) -> list[str]:
    """The command with sudo before it. Raises `ElevationDenied` where that cannot work."""
    sudo = shutil.which("sudo")
    if sudo is None:
        raise ElevationDenied(f"this needs root; run as root: {shlex.join(command)}")
    if not sys.stdin.isatty():
        raise ElevationDenied(f"this needs root; run: sudo {shlex.join(command)}")
    return [sudo, "--", *command]


class Helper:
    """A process that carries out requests, JSON values, in order. pid: its number where it is a child of this one."""

    def __init__(self, requests: IO[str], answers: IO[str], wait: Callable[[], object], pid: int = 0) -> None:
        self._requests, self._answers, self._wait, self.pid = requests, answers, wait, pid

    def ask(self, request: object) -> None:
        """Has one request carried out. Raises OSError, with the helper's own message where it has one."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
        answer = ""
        with suppress(ConnectionResetError):
            answer = self._answers.readline()
        if not answer:
            raise OSError("the right to change this was not given, so it was not changed")
        if text := json.loads(answer):
            raise OSError(text)

    def close(self) -> None:
        """Ends the requests, and returns once the process has ended."""
        with suppress(OSError):
            self._requests.close()
        self._wait()


def open_helper(module: str, arguments: Sequence[str] = (), *, elevated: bool = True) -> Helper:
    """Starts a process with elevated rights that runs `main` of a module, which calls `serve_requests`. Raises
    `ElevationDenied`, and OSError where it cannot be started."""
    command = helper_command(module, arguments)
    if sys.platform == "win32" and elevated and not is_elevated():
        return connect_helper(command)
    if elevated and not is_elevated():
        try:
            command = elevate_command(command)
        except ElevationDenied:
            raise ElevationDenied(NO_SUDO) from None
    # On Windows apart from this console, so that it is not closed with it.
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", creationflags=NO_WINDOW
    )
    assert child.stdin is not None
    assert child.stdout is not None
    return Helper(child.stdin, child.stdout, child.wait, child.pid)


def helper_command(module: str, arguments: Sequence[str]) -> list[str]:
    """The command line of a process that runs `main` of a module of vmdns with these arguments, from any folder."""
    root = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path.insert(0, {root!r}); from {module} import main; main(sys.argv[1:])"
    return [sys.executable, "-I", "-c", code, *arguments]


def serve_requests(arguments: Sequence[str], carry_out: Callable[[Any], None]) -> None:
    """The helper's side: carries out each request and answers it with the text of its error, '' without one. Returns at
    the end of requests. arguments end with the port and token that `connect_helper` added, if it did."""
    # They also reach vmdns, which ends this process by its input.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK"):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_IGN)
    requests: IO[str] = sys.stdin
    answers: IO[str] = sys.stdout
    if arguments and arguments[-1].startswith(_CONNECT):
        port, _, token = arguments[-1].removeprefix(_CONNECT).partition(":")
        connection = socket.create_connection(("127.0.0.1", int(port)), _CONNECT_SECONDS)
        connection.settimeout(None)
        requests = answers = connection.makefile("rw", encoding="utf-8")
        answers.write(f"{token}\n")
        answers.flush()
    with suppress(ConnectionResetError):
        for line in requests:
            try:
                carry_out(json.loads(line))
                text = ""
            except (OSError, ValueError, KeyError, TypeError) as error:
                text = str(error) or type(error).__name__
            answers.write(json.dumps(text) + "\n")
            answers.flush()


def connect_helper(command: Sequence[str]) -> Helper:
    """Starts a helper by a prompt of User Account Control, and waits for it to connect. Raises as `open_helper`."""
    token = secrets.token_hex(16)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ended = start_as_administrator([*command, f"{_CONNECT}{port}:{token}"])
        listener.settimeout(_RETRY_SECONDS)
        for _ in range(round(_CONNECT_SECONDS / _RETRY_SECONDS)):
            with suppress(TimeoutError):
                connection = listener.accept()[0]
                connection.settimeout(_CONNECT_SECONDS)
                stream = connection.makefile("rw", encoding="utf-8", errors="replace")
                with suppress(OSError):
                    if secrets.compare_digest(stream.readline(80).strip().encode(), token.encode()):
                        connection.settimeout(None)
                        return Helper(stream, stream, lambda: ended(COMMAND_SECONDS))
                connection.close()  # of another program
            if ended(0):
                break
    raise OSError("the process with administrator rights ended before it had done anything")


def start_as_administrator(command: Sequence[str]) -> Callable[[float], bool]:
    """Starts a process by a prompt of User Account Control. Returns a function that waits for its end, for some seconds
    at most, and returns whether it has ended. Raises `ElevationDenied` where the user declines, or OSError."""
    if sys.platform != "win32":
        raise NotImplementedError
    import pywintypes
    import win32event
    from win32com.shell import shell

    try:
        started = shell.ShellExecuteEx(
            fMask=_RUN_MASK, lpVerb="runas", lpFile=command[0], lpParameters=subprocess.list2cmdline(command[1:]),
            nShow=_HIDDEN,
        )  # fmt: skip
    except pywintypes.error as error:
        if error.winerror == _ERROR_CANCELLED:
            text = "this needs an administrator, and the prompt was declined; nothing was changed"
            raise ElevationDenied(text) from None
        text = f"this needs an administrator, and Windows could not ask for one ({error.strerror.rstrip('.')})"
        raise ElevationDenied(f"{text}; run it in a terminal that was started as administrator") from None
    process = started["hProcess"]
    return lambda seconds: win32event.WaitForSingleObject(process, int(seconds * 1000)) == win32event.WAIT_OBJECT_0


@functools.cache
def _settings_helper() -> Helper:
    """The one of this process, which ends with it."""
    return open_helper("vmdns.host.elevated_settings")


def write_elevated(kind: str, name: str, value: object) -> None:
    """Writes a setting (plan.py) with elevated rights. Raises `ElevationDenied`, and OSError."""
    _settings_helper().ask({"kind": kind, "name": name, "value": value})
