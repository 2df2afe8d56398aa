"""Completion in shells by argcomplete: commands, options, and the names of VMs and networks of the running vmdns."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from argcomplete import autocomplete
from argcomplete.completers import DirectoriesCompleter, FilesCompleter, SuppressCompleter
from argcomplete.shell_integration import shellcode

from vmdns.commands import server_request
from vmdns.control.client import ControlError, NotRunning


def script(shell: str) -> str:
    """The script that makes a shell (bash, zsh, fish or powershell) complete `vmdns`."""
    return shellcode(["vmdns"], shell=shell)


def complete(parser: argparse.ArgumentParser) -> None:
    """Answers a shell that completes a command line, and ends the process. argcomplete passes the line in variables."""
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    by_metavar = {
        "NAME": _machines,
        "VM": _machines,
        "NETWORK": _networks,
        "FILE": FilesCompleter(),
        "DIR": DirectoriesCompleter(),
    }
    for command in commands.choices.values():
        for action in command._actions:
            completer = by_metavar.get(str(action.metavar))
            if completer is not None:
                action.completer = completer
    autocomplete(parser, default_completer=SuppressCompleter())


def _machines(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """The names of VMs, below the first zone."""
    found = _names(parsed_args)
    return [one["name"].removesuffix(f".{found['zones'][0]}") for one in found["names"]]


def _networks(parsed_args: argparse.Namespace, **_: object) -> Iterable[str]:
    """The networks of VirtualBox with DHCP servers that running VMs are on."""
    networks = (item["network"] for one in _names(parsed_args)["names"] for item in one["addresses"])
    return {one["name"] for one in networks if one["kind"] in ("natnetwork", "hostonly")}


def _names(parsed_args: argparse.Namespace) -> dict[str, Any]:
    try:
        found = server_request.request(getattr(parsed_args, "vbox_home", ""), {"do": "names"})
    except (NotRunning, ControlError):
        found = {}
    return found if "names" in found else {"zones": [""], "names": []}
