"""Calls VBoxManage with a UTF-8 locale, a timeout and bounded output."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from vmdns.files import decode_text

# VBoxManage 7.2 hangs in about one of a hundred calls; the next call works.
LIMITS_SECONDS = (4.0, 10.0)
MAX_BYTES = 16 * 1024 * 1024


class VBoxManageError(Exception):
    """VBoxManage failed. `code` is VirtualBox's result code, such as 0x80bb0001; 0 if it printed none."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class _VBoxManageTimeout(VBoxManageError):
    """It did not end in time, and was killed."""


class VBoxManage:
    """Runs `program` with arguments, one process at a time.

    limits: timeouts in seconds of the first and the second try of a call. ended is called after each try; spent: CPU
    seconds of all calls.
    """

    def __init__(
        self,
        program: Path,
        environ: Mapping[str, str],
        limits: tuple[float, float] = LIMITS_SECONDS,
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        self._program = program
        self._windows = program.suffix.lower() == ".exe"  # also in WSL
        self._limits = limits
        self._ended = ended
        self.spent = 0.0
        self._environ = dict(environ)
        if sys.platform != "win32":
            # In any other locale VBoxManage silently truncates its output at the first non-ASCII letter.
            self._environ["LC_ALL"] = choose_locale(self._locales())

    def __call__(self, *arguments: str) -> str:
        """Returns its standard output. Raises `VBoxManageError` when it fails, hangs twice, or prints too much."""
        command = [str(self._program), *arguments]
        before = _cpu_seconds()
        try:
            try:
                output = self._run(command, self._limits[0])
            except _VBoxManageTimeout:
                self._ended()
                output = self._run(command, self._limits[1])
        finally:
            self._ended()
            self.spent += _cpu_seconds() - before
        return decode_text(output.replace(b"\r\n", b"\n") if self._windows else output, sys.platform)

    def _run(self, command: list[str], limit: float) -> bytes:
        # Files instead of pipes: a VBoxSVC that VBoxManage starts may inherit pipes and keep them open.
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            try:
                process = subprocess.Popen(
                    command,
                    env=self._environ,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,  # Ctrl-C in a terminal is for vmdns only
                    creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
                )
            except OSError as error:
                raise VBoxManageError(f"{command[0]} cannot be run ({error.strerror})") from None
            hung = threading.Event()

            def end() -> None:
                hung.set()
                process.kill()

            # Not wait(timeout), which polls on POSIX and adds up to 50 ms to a call.
            timer = threading.Timer(limit, end)
            timer.daemon = True
            timer.start()
            try:
                status = process.wait()
            finally:
                timer.cancel()
                process.kill()
            if status and hung.is_set():
                raise _VBoxManageTimeout(f"{' '.join(command[1:3])}: no answer in {limit:g} s")
            if status:
                err.seek(0)
                raise _failure(command, err.read(65536), status)
            out.seek(0)
            output = out.read(MAX_BYTES + 1)
            if len(output) > MAX_BYTES:
                raise VBoxManageError(f"{' '.join(command[:3])}: more than {MAX_BYTES} bytes of output")
            return output

    def _locales(self) -> list[str]:
        try:
            return self._run(["locale", "-a"], self._limits[0]).decode("ascii", "replace").split()
        except VBoxManageError:
            return []


def choose_locale(available: Iterable[str], platform: str = sys.platform) -> str:
    """The UTF-8 locale for VBoxManage, of those that `locale -a` lists: C if possible, which translates nothing."""
    names = {re.sub("[-.]", "", name).lower(): name for name in sorted(available)}
    for wanted in ("cutf8", "en_usutf8"):
        if wanted in names:
            return names[wanted]
    others = (name for plain, name in names.items() if plain.endswith("utf8"))
    return next(others, "en_US.UTF-8" if platform == "darwin" else "C.UTF-8")


def _cpu_seconds() -> float:
    """CPU seconds of VBoxManage and VBoxSVC, which takes about as much; wall time on Windows."""
    if sys.platform == "win32":
        return time.monotonic()
    import resource  # POSIX only

    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 2 * (usage.ru_utime + usage.ru_stime)


def _failure(command: list[str], errors: bytes, status: int) -> VBoxManageError:
    text = decode_text(errors, sys.platform)
    line = next((line for line in text.split("\n") if "error:" in line), "")
    code = re.search(r"\(0x([0-9a-fA-F]{8})\)", text)
    why = line.partition("error:")[2].strip() or f"exit status {status}"
    return VBoxManageError(f"{' '.join(command[1:3])}: {why}"[:300], int(code[1], 16) if code else 0)
