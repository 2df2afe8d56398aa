"""The name servers that were typed in on macOS and Windows before `vmdns host --whole`, as the journal has them."""

from __future__ import annotations

from vmdns.host.folders import state_folder
from vmdns.host.journal import Entry, Journal

SCOPE = "host"
_KINDS = ("mac-servers", "windows-servers")


def journal() -> Journal:
    """The journal of this user. Raises RuntimeError where no home folder is known."""
    return Journal(state_folder() / "journal.json")


def typed_in() -> list[str]:
    """The addresses, each once."""
    try:
        return servers_before(journal().entries(SCOPE))
    except (OSError, RuntimeError):
        return []


def servers_before(entries: list[Entry]) -> list[str]:
    """The addresses that settings of name servers had before they were ours."""
    lists = [one.before for one in entries if one.kind in _KINDS and isinstance(one.before, list)]
    return list(dict.fromkeys(str(address) for addresses in lists for address in addresses))
