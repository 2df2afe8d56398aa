"""resolv.conf(5): its parser, and the /etc/resolv.conf of a Linux host that sends all queries to vmdns.

That one is a link to a file of vmdns. NetworkManager (NetworkManager.conf(5), rc-manager) and systemd-resolved leave a
foreign link alone and continue to write their own copy elsewhere. The file of vmdns names that copy, so that vmdns can
forward to its servers, and the servers that were used before. VirtualBox reads the file too and passes it on to guests.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vmdns.dns.name import to_wire
from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.files import read_regular, read_whole
from vmdns.host import elevation
from vmdns.host.plan import Setting
from vmdns.host.system_settings import SystemFile

OURS = "/etc/vmdns/resolv.conf"
_HEAD = "# by vmdns host --whole: all names are asked of vmdns; vmdns host --undo takes it back"
_FOLLOW, _SERVER = "#vmdns follow ", "#vmdns nameserver "
_MAX_BYTES = 65_536

_LINK = 'set -e\nrm -f "$1.vmdns"\nln -s "$2" "$1.vmdns"\nmv -f "$1.vmdns" "$1"\n'
_TEXT = 'set -e\ncat >"$1.vmdns"\nchown "$2" "$1.vmdns"\nchmod "$3" "$1.vmdns"\nmv -f "$1.vmdns" "$1"\n'


def read_text(path: Path) -> str:
    """The lines of a small settings file that are whole within the bound: half an address would be another one.

    Raises OSError.
    """
    data = read_regular(path, _MAX_BYTES)
    whole = data if len(data) <= _MAX_BYTES else data[: data.rfind(b"\n") + 1]
    return whole.decode("utf-8", "surrogateescape")


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
    follow = (one.removeprefix(_FOLLOW).strip() for one in lines if one.startswith(_FOLLOW))
    servers = tuple(one.removeprefix(_SERVER).strip() for one in lines if one.startswith(_SERVER))
    return EarlierServers(tuple(one for one in follow if one.startswith("/")), servers)


def parse_resolv_conf(text: str) -> Upstreams:
    """The servers and search domains of a resolv.conf; the last search or domain line counts."""
    servers: list[Upstream] = []
    search: frozenset[bytes] = frozenset()
    for line in text.splitlines():
        match line.split():
            case ["nameserver", address, *_]:
                servers.append(Upstream(address))
            case ["search" | "domain", _, *_] as words:
                search = wire_names(words[1:])
    return Upstreams(tuple(dict.fromkeys(servers)), search=search)


def wire_names(texts: Iterable[str]) -> frozenset[bytes]:
    """Domains in wire form, without the root and invalid names."""
    found = set()
    for text in texts:
        with suppress(ValueError):
            found.add(to_wire(text))
    return frozenset(found - {b"\0"})


class OwnResolvConf(SystemFile):
    """The file of vmdns that /etc/resolv.conf becomes a link to."""

    kind = "resolv.conf-of-ours"
    alone = True


@dataclass(frozen=True)
class ResolvConf(Setting):
    """The file `name` as {"link": target} or {"text", "mode", "owner"}; None for none."""

    kind: ClassVar[str] = "resolv.conf"
    name: str = "/etc/resolv.conf"

    def read(self) -> dict[str, Any] | None:
        try:
            found = os.lstat(self.name)
            if stat.S_ISLNK(found.st_mode):
                return {"link": os.readlink(self.name)}
            text = read_whole(Path(self.name), _MAX_BYTES).decode("utf-8", "surrogateescape")
        except FileNotFoundError:
            return None
        return {"text": text, "mode": f"{stat.S_IMODE(found.st_mode):o}", "owner": f"{found.st_uid}:{found.st_gid}"}

    def commands(self, value: dict[str, Any] | None) -> Sequence[Sequence[str]]:
        if value is None:
            return [("rm", self.name)]
        return [("ln", "-sfn", value["link"], self.name)] if "link" in value else []

    def write(self, value: dict[str, Any] | None) -> None:
        if value is None:
            command = ["rm", "-f", self.name]
        elif "link" in value:
            command = ["sh", "-c", _LINK, "sh", self.name, value["link"]]
        else:
            command = ["sh", "-c", _TEXT, "sh", self.name, value["owner"], value["mode"]]
        elevation.run(command, elevated=True, text=(value or {}).get("text", ""))

    def describe(self, before: dict[str, Any] | None, after: dict[str, Any] | None) -> str:
        if after is None:
            return f"remove {self.name}"
        if "link" in after:
            return f"make {self.name} a link to {after['link']}"
        return f"make {self.name} the file it was, of {len(after['text'].splitlines())} lines"
