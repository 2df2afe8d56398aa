"""The configuration that a command works with: vmdns.toml and the options of the command line."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from vmdns.commands.command_error import USAGE, CommandError
from vmdns.config import Config, ConfigError, ConfigMissing, OptionError, Options, load, values_in_force
from vmdns.dns.zonefile import check_records
from vmdns.host.folders import config_file


def options_of(arguments: Namespace) -> Options:
    """The options of `vmdns run` among the arguments."""
    listen, upstreams = getattr(arguments, "listen", ()), getattr(arguments, "upstream", ())
    return Options(
        tuple(listen), tuple(upstreams), arguments.vbox_home, arguments.reader, getattr(arguments, "wire", False)
    )


def load_config(file: str | None, options: Options | None = None) -> tuple[Config, Path]:
    """The configuration in force, and its file: the one named, or the usual one, which need not exist.

    Raises `CommandError`.
    """
    try:
        path = Path(file) if file is not None else config_file()
        try:
            config = load(path, check_records)
        except ConfigMissing:
            if file is not None:
                raise
            config = Config()
        return config.with_options(options or Options()), path
    except OptionError as error:
        raise CommandError(str(error), USAGE) from None
    except (ConfigError, RuntimeError) as error:
        raise CommandError(str(error)) from None


def describe_config(file: str | None) -> dict[str, Any]:
    """What a running server answers to `config`, for when none runs. Raises `CommandError`."""
    config, path = load_config(file)
    found = str(path) if os.path.exists(path) else ""
    return {"running": False, "file": found, "fault": "", "values": values_in_force(config)}
