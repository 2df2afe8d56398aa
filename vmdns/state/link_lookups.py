"""Which names may be looked up on the host's links by multicast DNS, and what a query for one needs."""

from __future__ import annotations

from enum import Enum

from vmdns.dns.name import split_labels
from vmdns.state.name_rules import RESERVED


class LookupState(Enum):
    """What a query for a name needs: nothing, as nobody has the name; a lookup, or one's result; or a lookup that the
    budgets do not allow now."""

    ABSENT, LOOKUP, OVER_BUDGET = range(3)


def is_lookup_allowed(name: bytes) -> bool:
    """Whether this name may be looked up by multicast DNS: two labels below `local`, no service, and none of the names
    that a stranger must not have for guests either (`wpad`)."""
    parts = split_labels(name)
    if len(parts) != 2 or parts[1] != b"local" or parts[0].startswith(b"_"):
        return False
    return parts[0].decode("latin-1") not in RESERVED
