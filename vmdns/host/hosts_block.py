"""The block of VM names in the hosts file (hosts(5)), for users who leave their resolver settings unchanged.

Everything outside the block is kept byte for byte, and removing the block restores the original file.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from vmdns.files import read_whole, replace_file
from vmdns.host import elevation
from vmdns.state.static_records import BLOCK_BEGIN, BLOCK_END, HOSTS_NAME

BUSY_SECONDS = 5.0
_RETRY_SECONDS = 0.2
_MAX_BYTES = 64 * 1024 * 1024
_UNENDED = " (the line before has no end)"
_ABOUT = "# Written by `vmdns hosts`; `vmdns hosts --undo` takes it out."


def lines(names: Iterable[Mapping[str, Any]]) -> list[str]:
    """The lines for the server's list of names: those with an address that this host can reach."""
    found = []
    for one in names:
        texts = [name for name in (one["name"], *one["also"]) if HOSTS_NAME.fullmatch(name)]
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
        if not all(HOSTS_NAME.fullmatch(name) for name in names.split(" ")):
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
    """Writes or removes the block by replacing the file, and reads it back. Raises OSError.

    On Windows a virus scanner may have the file open: then it is tried again for BUSY_SECONDS.
    """
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            _write(file, wanted)
            break
        except PermissionError as error:
            if sys.platform != "win32":
                raise
            if time.monotonic() > end:
                raise OSError(
                    f"{file} is left as it is: another program, a virus scanner most likely, has it open or protects "
                    f"it ({error.strerror}); try again, or let vmdns change it there"
                ) from None
            time.sleep(_RETRY_SECONDS)
    if sys.platform == "win32":
        from vmdns.windows.dns_client import reload_settings

        reload_settings()


def _write(file: Path, wanted: Sequence[str] | None) -> None:
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
        if read_whole(file, _MAX_BYTES) != fresh:
            raise OSError(f"{file} was changed back at once, by a virus scanner most likely; let vmdns change it there")


def main(arguments: Sequence[str]) -> None:
    """The elevated process: each request is a block. arguments: the file, and `keep` if the last block is to stay."""
    file = Path(arguments[0])
    elevation.serve_requests(arguments, lambda wanted: write(file, wanted))
    if "keep" not in arguments:
        with suppress(OSError):
            write(file, None)


def open_writer(file: Path, *, keep: bool) -> elevation.Helper:
    """A process that writes blocks as `write` does. When it is closed or its caller dies, it removes the block, unless
    it is to keep it. Raises OSError, or `ElevationDenied`."""
    # Replacing a file needs write access to its folder.
    may_write = sys.platform != "win32" and os.access(file.resolve().parent, os.W_OK)
    arguments = [str(file), *(["keep"] if keep else [])]
    return elevation.open_helper("vmdns.host.hosts_block", arguments, elevated=not may_write)
