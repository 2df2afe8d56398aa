"""Windows' Name Resolution Policy Table: the rules that send names of a zone to vmdns, tagged as ours.

A rule has no port, so vmdns must have port 53. Where a group policy has rules, Windows ignores all local ones
([MS-GPNRPT] section 2.2.2). Rules are read in the registry, where anybody may, and written by the cmdlets of the
module DnsClient. Written after Microsoft's documentation and tested with values in its format; not yet run on Windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmdns.host import elevation
from vmdns.host.upstreams_windows import NRPT, NRPT_POLICY, Registry, words

TAG = "vmdns"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: key is its name in the table (a GUID in braces), spaces are namespaces like .vm.internal."""

    key: str
    spaces: tuple[str, ...]
    servers: tuple[str, ...]
    ours: bool


def parse_rules(registry: Registry, table: str = NRPT) -> list[Rule]:
    """The rules below a key of the registry."""
    found = []
    for path in sorted(path for path in registry if path.startswith(table + "\\")):
        values: Mapping[str, object] = registry[path]
        spaces, servers = tuple(words(values.get("Name"))), tuple(words(values.get("GenericDNSServers")))
        found.append(Rule(path.rpartition("\\")[2], spaces, servers, values.get("Comment") == TAG))
    return found


def overridden(registry: Registry) -> bool:
    """Whether a group policy has rules, so that local ones have no effect."""
    return bool(parse_rules(registry, NRPT_POLICY))


def stale(registry: Registry, kept: Iterable[str]) -> list[Rule]:
    """Rules tagged as ours whose namespace is none that the journal knows: left behind by another vmdns."""
    known = {one.lower() for one in kept}
    return [one for one in parse_rules(registry) if one.ours and not known & {space.lower() for space in one.spaces}]


def remove(rules: Iterable[Rule]) -> None:
    """Takes these rules away. Raises OSError."""
    for one in rules:
        elevation.run(removal(one), elevated=True)


def removal(rule: Rule) -> list[str]:
    """The command that takes a rule away."""
    return powershell(f"Remove-DnsClientNrptRule -Name {quoted(rule.key)} -Force")


def powershell(line: str) -> list[str]:
    """One line of PowerShell as a command."""
    return ["powershell", "-NoProfile", "-Command", line]


def quoted(text: str) -> str:
    """The text as a literal of PowerShell."""
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True, slots=True)
class NrptRule:
    """A `Setting` (plan.py): the servers of our rule for the namespace `name`; None where there is no such rule."""

    name: str
    read_registry: Callable[[], Registry]
    kind: str = field(default="nrpt", init=False)
    elevated: bool = field(default=True, init=False)

    def _ours(self) -> list[Rule]:
        return [one for one in parse_rules(self.read_registry()) if one.ours and one.spaces == (self.name,)]

    def read(self) -> list[str] | None:
        found = self._ours()
        return list(found[0].servers) if found else None

    def write(self, value: list[str] | None) -> None:
        for command in self._commands(value):
            elevation.run(command, elevated=True)

    def _commands(self, value: list[str] | None) -> list[list[str]]:
        lines = [removal(one) for one in self._ours()]
        if value is not None:
            servers = ",".join(map(quoted, value))
            lines.append(
                powershell(
                    f"Add-DnsClientNrptRule -Namespace {quoted(self.name)} -NameServers {servers} "
                    f"-Comment {TAG} -DisplayName {TAG}; Clear-DnsClientCache"
                )
            )
        return lines

    def describe(self, before: Any, after: Any) -> str:
        if after is None:
            return f"remove the rule that sends names below {self.name} to vmdns"
        return f"have names below {self.name} asked of {', '.join(after)} (a rule of the Name Resolution Policy Table)"

    def commands(self, before: Any, after: Any) -> Sequence[str]:
        return [line for *_, line in self._commands(after)]
