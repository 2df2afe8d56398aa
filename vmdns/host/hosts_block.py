"""The block of VM names in the hosts file (hosts(5)), for users who leave their resolver settings unchanged.

Everything outside the block is kept byte for byte, and removing the block restores the original file. The part for
Windows was never run.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from vmdns.files import read_whole, replace_file
from vmdns.host import elevation
from vmdns.state.static_records import BLOCK_BEGIN, BLOCK_END

_MAX_BYTES = 64 * 1024 * 1024
_UNENDED = " (the line before has no end)"
_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*", re.ASCII)
_ABOUT = "# Written by `vmdns hosts`; `vmdns hosts --undo` takes it out."


def lines(names: Iterable[Mapping[str, Any]]) -> list[str]:
    """The lines for the server's list of names: those with an address that this host can reach."""
    found = []
    for one in names:
        texts = [name for name in (one["name"], *one["also"]) if _NAME.fullmatch(name)]
        texts = [name for name in texts if not name.startswith(one["uuid"])]
        for address in one["here"]:
            with suppress(ValueError):
                if texts:
                    found.append(f"{ip_address(address)}\t{' '.join(texts)}")
    return found


def _split(data: bytes) -> tuple[bytes, list[str], bytes] | None:
    """The bytes before the block, its lines, and the bytes after it; None without a block. Raises ValueError."""
    rows = re.findall(rb"[^\n]*\n|[^\n]+", data)
    begin = [at for at, row in enumerate(rows) if row.startswith(BLOCK_BEGIN.encode())]
    if not begin:
        return None
    for at in range(begin[0], len(rows)):
        if rows[at].startswith(BLOCK_END.encode()):
            before, after = b"".join(rows[: begin[0]]), b"".join(rows[at + 1 :])
            if _UNENDED.encode() in rows[at] and not after:
                before = before.removesuffix(b"\r\n" if rows[at].endswith(b"\r\n") else b"\n")
            return before, [row.decode("ascii", "replace").rstrip() for row in rows[begin[0] + 1 : at]], after
    raise ValueError(f"its line {begin[0] + 1} says {BLOCK_BEGIN!r}, and no line after it {BLOCK_END!r}; add that line")


def replaced(data: bytes, wanted: Sequence[str] | None) -> bytes:
    """The file with these lines as its block, or without a block. Raises ValueError for invalid lines."""
    for line in wanted or ():
        address, _, names = line.partition("\t")
        ip_address(address)
        if not all(_NAME.fullmatch(name) for name in names.split(" ")):
            raise ValueError(f"no line of a hosts file: {line!r}")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data:
        raise ValueError("it is UTF-16, which no system reads there; save it as UTF-8")
    found = _split(data)
    before, after = (found[0], found[2]) if found is not None else (data, b"")
    if wanted is None:
        return before + after
    end = b"\r\n" if b"\r\n" in data or (not data and sys.platform == "win32") else b"\n"
    unended = bool(before) and not before.endswith(b"\n")
    last = BLOCK_END + (_UNENDED if unended and not after else "")
    rows = [BLOCK_BEGIN, _ABOUT, *wanted, last]
    return before + (end if unended else b"") + b"".join(row.encode("ascii") + end for row in rows) + after


def read(file: Path) -> list[str] | None:
    """The lines of the block in that file; None without a block. Raises OSError, also for half a block."""
    try:
        found = _split(read_whole(file, _MAX_BYTES))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise OSError(f"{file}: {error}") from None
    return None if found is None else [line for line in found[1] if not line.startswith("#")]


def write(file: Path, wanted: Sequence[str] | None) -> None:
    """Writes or removes the block by replacing the file. Raises OSError."""
    try:
        data = read_whole(file, _MAX_BYTES)
    except FileNotFoundError:
        data = b""
    try:
        fresh = replaced(data, wanted)
    except ValueError as error:
        raise OSError(f"{file} is left as it is: {error}") from None
    if fresh != data:
        replace_file(file, fresh, 0o644)


def main(arguments: Sequence[str]) -> int:
    """The elevated process: each line of its input is a block as JSON. At the end of input the block is removed.

    arguments: the file, and `once` if the first block is to stay. It answers each line with an empty line or an error.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    file, once = Path(arguments[0]), "once" in arguments
    for line in sys.stdin:
        try:
            write(file, json.loads(line))
            answer = ""
        except (OSError, ValueError) as error:
            answer = str(error)
        os.write(1, json.dumps(answer).encode() + b"\n")
        if once:
            return 0
    with suppress(OSError):
        write(file, None)
    return 0


class HostsWriter:
    """Writes blocks through one elevated process, which is started once. Raises OSError, or `ElevationDenied`."""

    def __init__(self, file: Path, *, once: bool) -> None:
        root = str(Path(__file__).resolve().parents[2])
        code = f"import sys; sys.path.insert(0, {root!r}); from vmdns.host.hosts_block import main; main(sys.argv[1:])"
        command = [sys.executable, "-I", "-c", code, str(file), *(["once"] if once else [])]
        # Replacing a file needs write access to its folder.
        may_write = sys.platform != "win32" and os.access(file.resolve().parent, os.W_OK)
        if not (may_write or elevation.is_elevated()):
            if sys.platform == "win32":
                raise elevation.ElevationDenied("this needs a terminal that was started as administrator")
            try:
                command = elevation.elevate_command(command)
            except elevation.ElevationDenied:
                raise elevation.ElevationDenied(
                    "this needs root, and there is no sudo or no terminal to ask for it"
                ) from None
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def write(self, wanted: Sequence[str] | None) -> None:
        """Writes one block; None removes it. Raises OSError."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        try:
            self._child.stdin.write(json.dumps(wanted) + "\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass
        answer = self._child.stdout.readline()
        if not answer:
            raise OSError("the hosts file was not written: the right to do so was not given")
        if text := json.loads(answer):
            raise OSError(text)

    def close(self) -> None:
        """Ends the process. Unless `once`, the block is removed when this returns."""
        assert self._child.stdin is not None
        with suppress(OSError):
            self._child.stdin.close()
        self._child.wait()
