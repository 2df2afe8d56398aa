"""Parses the host's hosts file (hosts(5))."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from io import BytesIO
from ipaddress import ip_address
from pathlib import Path

from vmdns.files import read_regular
from vmdns.state.facts import HostName
from vmdns.state.static_records import BLOCK_BEGIN, BLOCK_END, HOSTS_NAME, HostsIndex, index_hosts

MAX_BYTES = 64 * 1024 * 1024


@lru_cache(maxsize=4096)
def _address(text: str) -> str:
    """The canonical text of an address; '' for anything else."""
    try:
        return str(ip_address(text.partition("%")[0]))
    except ValueError:
        return ""


def parse_hosts(data: bytes) -> Iterator[HostName]:
    """The names in a hosts file; invalid lines are left out.

    Bytes that are not UTF-8 (old editors write Latin-1) make only their own name invalid. The block that `vmdns hosts`
    writes is left out: otherwise a VM would lose its name to that block.
    """
    inside = False
    for raw in BytesIO(data.removeprefix(codecs.BOM_UTF8)):
        if raw.startswith(b"# vmdns: "):
            line = raw.decode("utf-8", "replace")
            inside = line.startswith(BLOCK_BEGIN) or (inside and not line.startswith(BLOCK_END))
        if inside:
            continue
        words = raw.partition(b"#")[0].decode("utf-8", "replace").split()
        address = _address(words[0]) if len(words) > 1 else ""
        if not address:
            continue
        for position, word in enumerate(words[1:]):
            name = word.lower().rstrip(".")
            if HOSTS_NAME.fullmatch(name):
                yield HostName(name, address, position == 0)


def read_hosts(file: Path) -> tuple[bytes, bool]:
    """The content of the file, b"" if it does not exist, and whether it is complete. Raises OSError.

    A file longer than MAX_BYTES is cut after a line.
    """
    try:
        data = read_regular(file, MAX_BYTES)
    except FileNotFoundError:
        return b"", True
    if len(data) <= MAX_BYTES:
        return data, True
    return data[: data.rfind(b"\n", 0, MAX_BYTES) + 1], False


def read_digest(file: Path, zones: frozenset[bytes], ttl: int, before: HostsIndex | None = None) -> HostsIndex:
    """The names of the hosts file; `before` if nothing changed. zones are the local apexes (wire form), ttl is in
    seconds. Raises OSError."""
    data, whole = read_hosts(file)
    made_of = blake2b(repr((sorted(zones), ttl, whole)).encode(), digest_size=16)
    made_of.update(data)
    if before is not None and before.made_of == made_of.digest():
        return before
    found = index_hosts(parse_hosts(data), zones, ttl)
    trouble = found.trouble if whole else f"the hosts file is longer than {MAX_BYTES >> 20} MB: the rest is left out"
    return replace(found, made_of=made_of.digest(), trouble=trouble)
