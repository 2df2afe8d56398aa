"""What `vmdns doctor` reports: findings with their remedies, those about this computer, and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

OK, WARNING, PROBLEM = "ok", "warning", "problem"


class Finding(NamedTuple):
    """One thing that was looked at: its level, one sentence, and the command that mends it where there is one."""

    subject: str
    level: str
    text: str
    command: str = ""


@dataclass(frozen=True)
class HostState:
    """What was found out about this computer. None or empty where it could not be found out.

    zones_answered: for each zone whether this computer's own resolver asks vmdns for it. firewall: the name of one that
    is on and does not let DNS in, and the command that lets it. answers_local: upstreams that answer names in `local`.
    encrypted: what sends this computer's DNS past its resolver. system: sys.platform. asking: the command that makes
    this computer find the names. hosts_block: whether `vmdns hosts` has written them into the hosts file.
    """

    zones_answered: Mapping[str, bool] = field(default_factory=dict)
    firewall: tuple[str, str] | None = None
    answers_local: tuple[str, ...] = ()
    encrypted: tuple[str, ...] = ()
    system: str = "linux"
    asking: str = "vmdns host --apply"
    hosts_block: bool = False


def find_host_findings(host: HostState) -> Iterator[Finding]:
    """The findings about this computer, which runs vmdns."""
    answered = [zone for zone, yes in host.zones_answered.items() if yes]
    if answered:
        yield Finding("this computer", OK, f"asks vmdns for names in {join_words(answered)}")
    # On other systems multicast DNS has `local`.
    missing = [
        zone for zone, yes in host.zones_answered.items() if not yes and (host.system == "linux" or zone != "local")
    ]
    if missing and host.hosts_block:
        yield Finding("this computer", OK, "has the names of VMs in its hosts file")
    elif missing:
        yield Finding("this computer", WARNING, f"does not ask vmdns for names in {join_words(missing)}", host.asking)
    if host.firewall is not None:
        name, command = host.firewall
        yield Finding("this computer", PROBLEM, f"{name} does not let queries of guests in", command)
    for server in host.answers_local:
        text = f"the upstream {server} answers names in local itself; vmdns never asks it for them, but others might"
        yield Finding("upstream", WARNING, text)
    for what in host.encrypted:
        text = f"{what} does not use the system's resolver, so it does not find names of VMs"
        yield Finding("this computer", WARNING, text)


def join_words(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def has_no_problem(findings: Iterable[Finding]) -> bool:
    """Whether nothing is a problem; a warning is none."""
    return all(one.level != PROBLEM for one in findings)


def summarize_findings(findings: Iterable[Finding]) -> str:
    """`All well`, or how many problems and warnings there are."""
    levels = [one.level for one in findings]
    counts = [(levels.count(level), level) for level in (PROBLEM, WARNING)]
    return ", ".join(f"{count} {level}{'s' if count > 1 else ''}" for count, level in counts if count) or "All well"
