"""/etc/resolv.conf of a Linux host that asks vmdns for everything, as VirtualBox reads it and passes it on.

It becomes a link to a file of ours. NetworkManager leaves a link that is not its own alone (NetworkManager.conf(5),
rc-manager), and so does systemd-resolved; whoever wrote the file before goes on to write its own copy elsewhere. Our
file says where that is, so that vmdns can forward to what is used there now, and what was in force before.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vmdns.dns.name import to_wire
from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.host import elevation
from vmdns.regular_file import read_whole

OURS = "/etc/vmdns/resolv.conf"
_HEAD = "# by vmdns host --whole: all names are asked of vmdns; vmdns host --undo takes it back"
_FOLLOW, _SERVER = "#vmdns follow ", "#vmdns nameserver "
_MOST_BYTES = 65_536

_LINK = 'set -e\nrm -f "$1.vmdns"\nln -s "$2" "$1.vmdns"\nmv -f "$1.vmdns" "$1"\n'
_TEXT = 'set -e\ncat >"$1.vmdns"\nchown "$2" "$1.vmdns"\nchmod "$3" "$1.vmdns"\nmv -f "$1.vmdns" "$1"\n'


@dataclass(frozen=True, slots=True)
class Earlier:
    """Whom the host asked before: files whose servers are in force as long as they name any, then fixed addresses."""

    follow: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()


def ours(before: str, earlier: Earlier, address: str) -> str:
    """The text of our file: vmdns at `address` and nobody else, with the search list and options of the text before."""
    kept = [line for line in before.splitlines() if line.split()[:1] in (["search"], ["domain"], ["options"])]
    notes = [_FOLLOW + path for path in earlier.follow] + [_SERVER + server for server in earlier.servers]
    return "\n".join([_HEAD, *notes, f"nameserver {address}", *kept]) + "\n"


def earlier_of(text: str) -> Earlier | None:
    """The inverse of `ours`; None for a resolv.conf that is not ours."""
    lines = text.splitlines()
    if lines[:1] != [_HEAD]:
        return None
    follow = tuple(one.removeprefix(_FOLLOW).strip() for one in lines if one.startswith(_FOLLOW))
    servers = tuple(one.removeprefix(_SERVER).strip() for one in lines if one.startswith(_SERVER))
    return Earlier(tuple(one for one in follow if one.startswith("/")), servers)


def parse_resolv_conf(text: str) -> Upstreams:
    """The servers and search domains of a resolv.conf; of several search or domain lines the last one counts."""
    servers: list[Upstream] = []
    search: frozenset[bytes] = frozenset()
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0][0] in "#;":
            continue
        if words[0] == "nameserver":
            servers.append(Upstream(words[1]))
        elif words[0] in ("search", "domain"):
            search = wire_names(words[1:])
    return Upstreams(tuple(dict.fromkeys(servers)), search=search)


def wire_names(texts: Iterable[str]) -> frozenset[bytes]:
    """Domains in wire form, without the root and without what is no domain name."""
    found = set()
    for text in texts:
        try:
            found.add(to_wire(text))
        except ValueError:
            continue
    return frozenset(found - {b"\0"})


@dataclass(frozen=True, slots=True)
class ResolvConf:
    """A `Setting` (plan.py): the file `name` as {"link": target} or {"text", "mode", "owner"}; None for none."""

    name: str = "/etc/resolv.conf"
    kind: str = field(default="resolv.conf", init=False)
    elevated: bool = field(default=True, init=False)

    def read(self) -> dict[str, Any] | None:
        try:
            found = os.lstat(self.name)
            if stat.S_ISLNK(found.st_mode):
                return {"link": os.readlink(self.name)}
            text = read_whole(Path(self.name), _MOST_BYTES).decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return None
        return {
            "text": text,
            "mode": f"{stat.S_IMODE(found.st_mode):o}",
            "owner": f"{found.st_uid}:{found.st_gid}",
        }

    def write(self, value: dict[str, Any] | None) -> None:
        if value is None:
            command, text = ["rm", "-f", self.name], ""
        elif "link" in value:
            command, text = ["sh", "-c", _LINK, "sh", self.name, str(value["link"])], ""
        else:
            command = ["sh", "-c", _TEXT, "sh", self.name, str(value["owner"]), str(value["mode"])]
            text = str(value["text"])
        elevation.run(command, elevated=True, text=text)

    def describe(self, before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
        if after is None:
            return f"remove {self.name}"
        if "link" in after:
            return f"make {self.name} a link to {after['link']}"
        return f"make {self.name} the file it was, of {len(after['text'].splitlines())} lines"

    def commands(self, before: dict[str, Any] | None, after: dict[str, Any] | None) -> Sequence[str]:
        if after is None:
            return [elevation.shown(["rm", self.name], elevated=True)]
        if "link" in after:
            return [elevation.shown(["ln", "-sfn", str(after["link"]), self.name], elevated=True)]
        return []
