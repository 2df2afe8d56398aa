"""The host's hosts file: read as hosts(5) says, watched by its folder."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from vmdns.core.hosts import BLOCK_BEGIN, BLOCK_END
from vmdns.core.model import HostName
from vmdns.regularfile import read_regular

MAX_BYTES = 16 * 1024 * 1024
MAX_NAMES = 200_000

_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*\.?", re.ASCII)


def path(platform: str = sys.platform, environ: Mapping[str, str] = os.environ) -> Path:
    """Where this system has its hosts file."""
    if platform == "win32":
        return Path(environ.get("SystemRoot", r"C:\Windows"), "System32", "drivers", "etc", "hosts")
    return Path("/etc/hosts")


def parse_hosts(data: bytes) -> dict[str, HostName]:
    """The names in a hosts file, by `hosts:<name> <address>`; lines that make no sense are left out.

    Bytes that are not UTF-8 (old editors write Latin-1) spoil at most the name they stand in. What vmdns wrote there
    itself (`vmdns hosts`) is left out: a VM would lose its name to itself.
    """
    found: dict[str, HostName] = {}
    inside = False
    for line in data[:MAX_BYTES].decode("utf-8-sig", "replace").split("\n"):
        if line.startswith("# vmdns: "):
            inside = line.startswith(BLOCK_BEGIN) or (inside and not line.startswith(BLOCK_END))
        if inside:
            continue
        words = line.partition("#")[0].split()
        if len(words) < 2:
            continue
        try:
            address = str(ip_address(words[0].partition("%")[0]))
        except ValueError:
            continue
        for position, word in enumerate(words[1:]):
            name = word.lower().rstrip(".")
            if len(name) <= 253 and _NAME.fullmatch(name):
                found.setdefault(f"hosts:{name} {address}", HostName(name, address, position == 0))
            if len(found) >= MAX_NAMES:
                return found
    return found


def read_hosts(file: Path) -> dict[str, HostName]:
    """The names in that file; none where there is no such file. Raises OSError."""
    try:
        return parse_hosts(read_regular(file, MAX_BYTES))
    except FileNotFoundError:
        return {}
