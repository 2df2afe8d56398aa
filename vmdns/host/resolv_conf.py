"""resolv.conf(5): its parser, and the /etc/resolv.conf of a Linux host that sends all queries to vmdns.

That one is a link to a file of vmdns. NetworkManager (NetworkManager.conf(5), rc-manager) and systemd-resolved leave a
foreign link alone and continue to write their own copy elsewhere. The file of vmdns names that copy, so that vmdns can
forward to its servers, and the servers that were used before. VirtualBox reads the file too and passes it on to guests.
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
class EarlierServers:
    """The name servers before: files whose servers are used as long as they name any, then fixed addresses."""

    follow: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()


def render_resolv_conf(before: str, earlier: EarlierServers, address: str) -> str:
    """The text of the file: vmdns at `address` as the only server, with the search list and options of `before`."""
    kept = [line for line in before.splitlines() if line.split()[:1] in (["search"], ["domain"], ["options"])]
    notes = [_FOLLOW + path for path in earlier.follow] + [_SERVER + server for server in earlier.servers]
    return "\n".join([_HEAD, *notes, f"nameserver {address}", *kept]) + "\n"


def parse_earlier_servers(text: str) -> EarlierServers | None:
    """The inverse of `render_resolv_conf`; None for a resolv.conf that vmdns did not write."""
    lines = text.splitlines()
    if lines[:1] != [_HEAD]:
        return None
    follow = tuple(one.removeprefix(_FOLLOW).strip() for one in lines if one.startswith(_FOLLOW))
    servers = tuple(one.removeprefix(_SERVER).strip() for one in lines if one.startswith(_SERVER))
    return EarlierServers(tuple(one for one in follow if one.startswith("/")), servers)


def parse_resolv_conf(text: str) -> Upstreams:
    """The servers and search domains of a resolv.conf; the last search or domain line counts."""
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
    """Domains in wire form, without the root and invalid names."""
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
            return [elevation.format_command(["rm", self.name], elevated=True)]
        if "link" in after:
            return [elevation.format_command(["ln", "-sfn", str(after["link"]), self.name], elevated=True)]
        return []
