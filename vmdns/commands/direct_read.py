"""What commands read themselves: the configuration, and VirtualBox where no server runs."""

from __future__ import annotations

import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from vmdns.commands import FAILED, USAGE, CommandError
from vmdns.config import KEYS, Config, ConfigError, OptionError, Options, load, values_in_force
from vmdns.control import requests
from vmdns.host.folders import config_file, hosts_path
from vmdns.sources import hosts_file
from vmdns.sources.supervisor import look_once
from vmdns.state.build import build
from vmdns.state.facts import Fact, from_json


def options_of(arguments: Namespace) -> Options:
    """The options of `vmdns run` among the arguments."""
    return {key: value for key, value in vars(arguments).items() if value and KEYS.get(key, {}).get("option")}


def load_config(file: str | None, options: Options | None = None) -> tuple[Config, Path]:
    """The configuration in force, and its file: the one named, or the usual one, which need not exist.

    Raises `CommandError`.
    """
    try:
        path = Path(file) if file is not None else config_file()
        return load(path, optional=file is None).with_options(options or {}), path
    except (ConfigError, RuntimeError) as error:
        raise CommandError(str(error), USAGE if isinstance(error, OptionError) else FAILED) from None


def describe_config(file: str | None) -> dict[str, Any]:
    """What a running server answers to `config`, for when none runs. Raises `CommandError`."""
    config, path = load_config(file)
    found = str(path) if path.exists() else ""
    return {"running": False, "file": found, "fault": "", "values": values_in_force(config)}


def read_facts(config: Config) -> list[Fact]:
    """What one look at VirtualBox and the hosts file finds. Raises OSError where it cannot be read."""
    facts: dict[str, Fact] = {}
    for message in look_once(config.reader, config.vbox_home, config.limits.look_interval):
        facts.update({key: from_json(one) for key, one in message.get("facts", {}).items() if one is not None})
    if config.hosts:
        policy = config.policy()
        hosts = hosts_file.read_digest(hosts_path(), policy.apexes, policy.ttl)
        facts.update({f"hosts:{one.name} {one.address}": one for one in hosts.inside})  # only names in our zones
    return list(facts.values())


def read_names(config: Config) -> dict[str, Any]:
    """The names of VMs, as the control channel sends them. Raises OSError as `read_facts` does."""
    now = time.time()
    return requests.names(build(read_facts(config), config.policy(), now, 0), now)
