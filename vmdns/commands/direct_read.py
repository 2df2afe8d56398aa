"""Reads VirtualBox and the hosts file once, for commands while no server runs."""

from __future__ import annotations

import time
from typing import Any

from vmdns.commands.command_error import CommandError
from vmdns.config import Config
from vmdns.control import report
from vmdns.dns.zonefile import parse_records
from vmdns.host.folders import hosts_path
from vmdns.sources import hosts_file
from vmdns.sources.reader import ReaderUnavailable
from vmdns.sources.supervisor import look_once
from vmdns.state.build import build
from vmdns.state.facts import Fact, from_json
from vmdns.state.policy import Policy


def read_facts(config: Config) -> list[Fact]:
    """What one look at VirtualBox and the hosts file finds. Raises `ReaderUnavailable`, OSError."""
    home = str(config.vbox_home) if config.vbox_home else None
    facts: dict[str, Fact] = {}
    for message in look_once(config.reader, home, config.limits.look_interval):
        facts.update({key: from_json(one) for key, one in message.get("facts", {}).items() if one is not None})
    if config.hosts:
        policy = policy_of(config)
        hosts = hosts_file.read_digest(hosts_path(), policy.apexes, policy.ttl)
        facts.update({f"hosts:{one.name} {one.address}": one for one in hosts.inside})  # only names in our zones
    return list(facts.values())


def read_names(config: Config) -> dict[str, Any]:
    """The names of VMs, as the control channel sends them. Raises `CommandError`."""
    now = time.time()
    try:
        return report.names(build(read_facts(config), policy_of(config), now, 0), config.zones, now)
    except (ReaderUnavailable, OSError) as error:
        raise CommandError(str(error)) from None


def policy_of(config: Config) -> Policy:
    """The policy without what only a running server knows."""
    return Policy(
        zones=config.zones,
        records=parse_records(config.records, config.zones, config.limits.ttl),
        reserved_allowed=frozenset(config.reserved_allowed),
        lan=config.lan,
        wildcards=config.wildcards,
    )
