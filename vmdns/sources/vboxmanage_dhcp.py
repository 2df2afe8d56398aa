"""What `VBoxManage list dhcpservers` prints, as values: see `vboxmanage_output` for what can be relied on."""

from __future__ import annotations

import re

from vmdns.sources.vboxmanage_output import IP, LABEL, NO
from vmdns.state.dhcp_options import NAME_SERVERS, Scope, name_servers
from vmdns.state.facts import DhcpServer

_SERVER = re.compile(
    rf"{LABEL}(?P<network>.*?)\nDhcpd IP: +(?P<address>{IP})\n{LABEL}{IP}\n{LABEL}{IP}\n"
    rf"{LABEL}(?P<mask>{IP})\n{LABEL}(?P<enabled>\S+)\n",
    re.DOTALL,
)
_FIXED = re.compile(rf"^\S[^\n]* ((?:[0-9a-f]{{2}}:){{5}}[0-9a-f]{{2}})\n {{4}}{LABEL}({IP})$", re.MULTILINE)
_OPTION = re.compile(r" +([0-9]+)/\w+: (.*)")
_EVERYONE = re.compile(r" {4}\S.*? (\S+) MAC\* +\*")


def dhcp_servers(text: str) -> list[DhcpServer]:
    """`list dhcpservers`, with the fixed addresses of MACs and of VMs' adapters (VirtualBox resolves their MACs)."""
    found = []
    for block in text.split("\n\n"):
        match = _SERVER.match(block)
        if match is None:
            continue
        fixed = {(mac.replace(":", ""), address) for mac, address in _FIXED.findall(block)}
        found.append(
            DhcpServer(
                match["network"],
                match["address"],
                match["mask"],
                match["enabled"] not in NO,
                tuple(sorted(fixed)),
                _name_servers(block[match.end() :]),
            )
        )
    return found


def _name_servers(text: str) -> tuple[str, ...]:
    """Of the options of a server: first those of the whole server, then a part for each group, then single VMs'."""
    whole, *others = re.split(r"\n(?=\S)", text)
    groups = []
    for part in others:
        words = [match[1] for match in map(_EVERYONE.fullmatch, part.split("\n")) if match]
        if words and "exclude" not in words:
            groups.append(_scope(part))
    return name_servers(_scope(whole), groups)


def _scope(part: str) -> Scope:
    """Labels may be translated, but what is suppressed always comes last before the options."""
    title, *lines = part.rstrip("\n").split("\n")
    options = {match[1]: match[2] for match in map(_OPTION.fullmatch, lines) if match}
    said = [line for line in lines if not _OPTION.fullmatch(line)]
    suppressed = said[-1 if options else -2] if len(said) > 1 else ""
    return Scope(
        title.partition(":")[2].strip(),
        options.get(str(NAME_SERVERS), ""),
        str(NAME_SERVERS) in re.findall("[0-9]+", suppressed.partition(":")[2]),
    )
