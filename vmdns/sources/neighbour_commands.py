"""The host's neighbour table where only commands tell it: macOS and Windows. Their output is read without its words.

arp(8) and ndp(8) of macOS write the digits of a MAC without leading zeros; netsh is translated, so interfaces are told
by `<word> <number>: <name>` and entries by an address and a MAC. Neither has been run there.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

from vmdns.sources.neighbour_table import Entry
from vmdns.state.program_output import decode_console

TIMEOUT_SECONDS = 5.0

_ARP = re.compile(r"\S+ \(([0-9.]+)\) at ([0-9A-Fa-f:]+) on (\S+)")
_NDP = re.compile(r"([0-9A-Fa-f:.]+)(?:%\S+)?\s+([0-9A-Fa-f:]+)\s+(\S+)\s")
# French puts a space before the colon, which may be one that does not break (U+00A0, U+202F).
_NETSH_INTERFACE = re.compile(r"\S.*?\s[0-9]+\s*:\s*(.+)")
_NETSH = re.compile(r"([0-9A-Fa-f:.]+)(?:%\S+)?\s+((?:[0-9A-Fa-f]{2}-){5}[0-9A-Fa-f]{2})\s+\S")


def read() -> list[Entry]:
    """The whole table. Raises OSError or subprocess.SubprocessError where a command fails."""
    if sys.platform == "win32":
        texts = [_run("netsh", "interface", family, "show", "neighbors") for family in ("ipv4", "ipv6")]
        return [entry for text in texts for entry in netsh(text)]
    return [*arp(_run("/usr/sbin/arp", "-an")), *ndp(_run("/usr/sbin/ndp", "-an"))]


def _run(*command: str) -> str:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT_SECONDS,
        check=True,
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    return decode_console(done.stdout, sys.platform)


def arp(text: str) -> Iterator[Entry]:
    """`arp -an` of macOS."""
    for line in text.splitlines():
        if match := _ARP.match(line):
            yield Entry(match[3], _mac(match[2]), match[1])


def ndp(text: str) -> Iterator[Entry]:
    """`ndp -an` of macOS."""
    for line in text.splitlines():
        if match := _NDP.match(line):
            yield Entry(match[3], _mac(match[2]), match[1])


def netsh(text: str) -> Iterator[Entry]:
    """`netsh interface ipv4|ipv6 show neighbors` of Windows, in any language."""
    interface = ""
    for line in text.splitlines():
        if match := _NETSH.match(line):
            yield Entry(interface, match[2].replace("-", "").lower(), match[1])
        elif match := _NETSH_INTERFACE.fullmatch(line.rstrip()):
            interface = match[1]


def _mac(text: str) -> str:
    """12 hex digits, of groups that may lack a leading zero."""
    return "".join(part.zfill(2) for part in text.lower().split(":"))
