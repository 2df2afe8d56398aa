r"""Whether Windows Defender Firewall lets DNS queries in, from its policy in the registry, which needs no rights.

Values of profiles and the grammar of rules are those of [MS-GPFAS] sections 2.2.2 and 2.2.3; the local policy has the
same form as that of a group. A block rule outranks all others, an allow rule the default of the profile. The domain
profile is left out: guests are on networks that are private or, as host-only ones, public.
"""

from __future__ import annotations

import ntpath
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from vmdns.windows.registry import Registry

_LOCAL = r"SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy"
_MANAGED = _LOCAL + r"\Mdm"  # of mobile device management
_GROUP = r"SOFTWARE\Policies\Microsoft\WindowsFirewall"
RULES, *_OTHER_RULES = (rf"{base}\FirewallRules" for base in (_LOCAL, _MANAGED, _GROUP))
PUBLIC, PRIVATE = "public", "private"
# The keys of each profile, those of the local policy first.
_PROFILES = {
    PUBLIC: (rf"{_LOCAL}\PublicProfile", rf"{_MANAGED}\PublicProfile", rf"{_GROUP}\PublicProfile"),
    PRIVATE: (rf"{_LOCAL}\StandardProfile", rf"{_MANAGED}\StandardProfile", rf"{_GROUP}\PrivateProfile"),
}
PROTOCOLS = {"UDP": 17, "TCP": 6}
_PORT = 53
# Fields that restrict nothing: texts for people, and what applies to NAT traversal only.
_NO_CONDITIONS = frozenset(("Action", "Active", "Dir", "Profile", "Name", "Desc", "EmbedCtxt", "Edge", "Defer"))
# Fields of rules for services and store apps, none of which vmdns is, and for the ports of clients.
_OF_OTHERS = frozenset(("Svc", "AppPkgId", "PFN", "RPort", "RPort2_10"))

Address = IPv4Address | IPv6Address


class Rule(NamedTuple):
    """An active rule for what comes in: the name of its value in the registry, and its fields, some more than once."""

    name: str
    fields: Mapping[str, tuple[str, ...]]

    @property
    def action(self) -> str:
        return self.fields.get("Action", ("",))[0].lower()


class Verdict(NamedTuple):
    """Whether queries are let in; None where a rule has conditions that are not known here. blocked_by: the names of
    block rules that keep them out."""

    let_in: bool | None
    blocked_by: tuple[str, ...] = ()


def read_registry() -> Registry:
    """The policy's keys that exist. Raises OSError where there is no local policy."""
    from vmdns.windows.registry import read_key, read_tree

    found: dict[str, Mapping[str, object]] = {RULES: read_key(RULES)}
    for path in (*(path for paths in _PROFILES.values() for path in paths), *_OTHER_RULES):
        found |= read_tree(path)
    return found


@cache  # each address, profile and protocol looks at all of some 500 rules
def parse_rule(name: str, text: str) -> Rule | None:
    """An active rule for what comes in; None for any other. Fields are divided by `|`, the first is the version."""
    fields: dict[str, tuple[str, ...]] = {}
    for part in text.split("|")[1:]:
        key, divided, value = part.partition("=")
        if divided:
            fields[key] = (*fields.get(key, ()), value)
    active = [one.upper() for one in fields.get("Active", ())] == ["TRUE"]
    return Rule(name, fields) if active and [one.lower() for one in fields.get("Dir", ())] == ["in"] else None


def find_verdict(registry: Registry, profile: str, protocol: int, address: str, program: str) -> Verdict:
    """Whether queries by this IP protocol to this address reach the program, in networks of the profile."""
    values: dict[str, object] = {}
    for path in _PROFILES[profile]:
        values |= registry.get(path, {})
    if values.get("EnableFirewall", 1) == 0:
        return Verdict(True)
    if values.get("DoNotAllowExceptions", 0) == 1:
        return Verdict(False)
    keys = [*_OTHER_RULES, *([RULES] if values.get("AllowLocalPolicyMerge", 1) else [])]
    texts = [item for key in keys for item in registry.get(key, {}).items()]
    rules = [rule for name, text in texts if isinstance(text, str) and (rule := parse_rule(name, text))]
    at = ip_address(address.partition("%")[0])
    matched = [(rule, _matches(rule, profile, protocol, at, program)) for rule in rules]
    blocks = tuple(rule.name for rule, matches in matched if matches and rule.action == "block")
    if blocks:
        return Verdict(False, blocks)
    if any(matches is None and rule.action == "block" for rule, matches in matched):
        return Verdict(None)
    allows = [matches for rule, matches in matched if rule.action == "allow"]
    if True in allows:
        return Verdict(True)
    return Verdict(None if None in allows else values.get("DefaultInboundAction", 1) == 0)


def _matches(rule: Rule, profile: str, protocol: int, address: Address, program: str) -> bool | None:
    """Whether the rule is for such queries; None where it has a condition that is not known here."""
    found = [_condition(key, values, protocol, address, program) for key, values in rule.fields.items()]
    profiles = [one.lower() for one in rule.fields.get("Profile", ())]
    found += [not profiles or profile in profiles]
    for fields in (_fields(rule, "LPort"), _fields(rule, "LA"), _fields(rule, "RA")):
        if fields:
            found.append(any(_matches_value(key, value, address) for key, value in fields))
    if False in found:
        return False
    return None if None in found else True


def _fields(rule: Rule, start: str) -> list[tuple[str, str]]:
    return [(key, one) for key, values in rule.fields.items() if key.startswith(start) for one in values]


def _condition(key: str, values: Iterable[str], protocol: int, address: Address, program: str) -> bool | None:
    """Whether one field lets the rule match; None for an unknown field."""
    if key in _NO_CONDITIONS or key.startswith(("LPort", "LA", "RA")):
        return True  # ports and addresses are alternatives, tried together
    if key == "Protocol":
        return str(protocol) in values
    if key == "App":
        return any(_normal(os.path.expandvars(one)) == _normal(program) for one in values)
    return False if key in _OF_OTHERS else None


def _normal(path: str) -> str:
    return ntpath.normcase(ntpath.normpath(path))


def _matches_value(key: str, value: str, address: Address) -> bool:
    """Whether a local port or address, or the address of a guest in the network of `address`, is the value's: a single
    one, a range, a network, or a keyword, of which only that of the local network has guests."""
    first, _, last = value.partition("-")
    if key.startswith("LPort"):
        return first.isdigit() and int(first) <= _PORT <= int(last if last.isdigit() else first)
    if value.lower().startswith("localsubnet"):
        return True
    try:
        if last:
            return ip_address(first).version == address.version and int(ip_address(first)) <= int(address) <= int(
                ip_address(last)
            )
        return address in ip_network(value, strict=False)
    except ValueError:
        return False


def find_closed(registry: Registry, addresses: Iterable[str], program: str) -> Iterator[tuple[str, str, Verdict]]:
    """The profiles and addresses of this computer at which queries to the program are kept out, with the verdict."""
    for address in addresses:
        for profile in _PROFILES:
            for protocol in PROTOCOLS.values():
                verdict = find_verdict(registry, profile, protocol, address, program)
                if verdict.let_in is False:
                    yield profile, address, verdict
                    break


def describe_closed(closed: Iterable[tuple[str, str, Verdict]]) -> tuple[str, str] | None:
    """What keeps queries out, as the subject of a sentence, and the command for PowerShell that lets them in; None
    where nothing does."""
    found = list(closed)
    if not found:
        return None
    profiles = " and ".join(dict.fromkeys(profile for profile, _, _ in found))
    name = f"Windows Defender Firewall (in networks that are {profiles} to Windows)"
    if blocks := dict.fromkeys(one for _, _, verdict in found for one in verdict.blocked_by):
        names = ", ".join("'" + one.replace("'", "''") + "'" for one in blocks)
        return f"a block rule of {name}", f"Disable-NetFirewallRule -Name {names}"
    wanted = ", ".join(dict.fromkeys(address for _, address, _ in found))
    rule = f"New-NetFirewallRule -DisplayName vmdns -Direction Inbound -Action Allow -LocalPort {_PORT}"
    return name, f"'UDP', 'TCP' | ForEach-Object {{ {rule} -Protocol $_ -LocalAddress {wanted} }}"
