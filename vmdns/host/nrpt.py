"""Windows' Name Resolution Policy Table (NRPT): rules that send queries for a zone to vmdns, tagged by vmdns.

A rule has no port, so vmdns must have port 53. Where a group policy has rules, Windows ignores all local ones
([MS-GPNRPT] section 2.2.2). Rules are read from the registry, which needs no rights, and written by the
cmdlets of the module DnsClient. Written from Microsoft's documentation and tested with values in its format; never run
on Windows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vmdns.host import elevation
from vmdns.host.upstreams_windows import NRPT, NRPT_POLICY, Registry, words

TAG = "vmdns"


@dataclass(frozen=True, slots=True)
class NrptRule:
    """One rule: key is its name in the table (a GUID in braces), spaces are namespaces like .vm.internal."""

    key: str
    spaces: tuple[str, ...]
    servers: tuple[str, ...]
    ours: bool


def parse_rules(registry: Registry, table: str = NRPT) -> list[NrptRule]:
    """The rules below a key of the registry."""
    found = []
    for path in sorted(path for path in registry if path.startswith(table + "\\")):
        values: Mapping[str, object] = registry[path]
        spaces, servers = tuple(words(values.get("Name"))), tuple(words(values.get("GenericDNSServers")))
        found.append(NrptRule(path.rpartition("\\")[2], spaces, servers, values.get("Comment") == TAG))
    return found


def has_group_policy(registry: Registry) -> bool:
    """Whether a group policy has rules, so that local ones have no effect."""
    return bool(parse_rules(registry, NRPT_POLICY))


def find_stale_rules(registry: Registry, kept: Iterable[str]) -> list[NrptRule]:
    """Rules with the tag of vmdns whose namespace is not in the journal: left by another installation of vmdns."""
    known = {one.lower() for one in kept}
    return [one for one in parse_rules(registry) if one.ours and not known & {space.lower() for space in one.spaces}]


def remove_rules(rules: Iterable[NrptRule]) -> None:
    """Removes these rules. Raises OSError."""
    for one in rules:
        elevation.run(removal_command(one), elevated=True)


def removal_command(rule: NrptRule) -> list[str]:
    """The command that removes a rule."""
    return powershell_command(f"Remove-DnsClientNrptRule -Name {quote_powershell(rule.key)} -Force")


def powershell_command(line: str) -> list[str]:
    """One line of PowerShell as a command."""
    return ["powershell", "-NoProfile", "-Command", line]


def quote_powershell(text: str) -> str:
    """The text as a literal of PowerShell."""
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True, slots=True)
class NrptSetting:
    """A `Setting` (plan.py): the servers of vmdns' rule for the namespace `name`; None without a rule."""

    name: str
    read_registry: Callable[[], Registry]
    kind: str = field(default="nrpt", init=False)
    elevated: bool = field(default=True, init=False)

    def _own_rules(self) -> list[NrptRule]:
        return [one for one in parse_rules(self.read_registry()) if one.ours and one.spaces == (self.name,)]

    def read(self) -> list[str] | None:
        found = self._own_rules()
        return list(found[0].servers) if found else None

    def write(self, value: list[str] | None) -> None:
        for command in self._commands(value):
            elevation.run(command, elevated=True)

    def _commands(self, value: list[str] | None) -> list[list[str]]:
        lines = [removal_command(one) for one in self._own_rules()]
        if value is not None:
            servers = ",".join(map(quote_powershell, value))
            lines.append(
                powershell_command(
                    f"Add-DnsClientNrptRule -Namespace {quote_powershell(self.name)} -NameServers {servers} "
                    f"-Comment {TAG} -DisplayName {TAG}; Clear-DnsClientCache"
                )
            )
        return lines

    def describe(self, before: Any, after: Any) -> str:
        if after is None:
            return f"remove the rule that sends names below {self.name} to vmdns"
        servers = ", ".join(after)
        return f"send queries for names below {self.name} to {servers} (a rule of the Name Resolution Policy Table)"

    def commands(self, before: Any, after: Any) -> Sequence[str]:
        return [line for *_, line in self._commands(after)]
