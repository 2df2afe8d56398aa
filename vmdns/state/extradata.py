"""What a user may set for a VM in its extra data: `VBoxManage setextradata VM vmdns/names web,shop`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

NAMES = "vmdns/names"
IGNORE = "vmdns/ignore"
ADDRESS = "vmdns/address"
KEYS = (NAMES, IGNORE, ADDRESS)
MAX_NAMES = 32


class Extra(NamedTuple):
    """The values of the keys, as the fields of a `Machine` that they fill."""

    names: tuple[str, ...]
    ignored: bool
    set_addresses: tuple[str, ...]


def parse_extra(values: Mapping[str, str]) -> Extra:
    """Parses a VM's extra data; keys that are not vmdns's, and what is missing, do not matter."""
    return Extra(
        parse_extra_names(values.get(NAMES, "")),
        is_true(values.get(IGNORE, "")),
        parse_extra_addresses(values.get(ADDRESS, "")),
    )


def parse_extra_names(value: str) -> tuple[str, ...]:
    """The names in a value of `vmdns/names`: comma separated, the first 32, as written and in that order."""
    return tuple(name for part in value.split(",") if (name := part.strip()))[:MAX_NAMES]


def parse_extra_addresses(value: str) -> tuple[str, ...]:
    """The texts in a value of `vmdns/address`: separated by commas or blanks, the first 32, right or not."""
    return tuple(filter(None, re.split(r"[,;\s]+", value)))[:MAX_NAMES]


def is_true(value: str) -> bool:
    """Whether a value such as that of `vmdns/ignore` means yes: 1, true, yes or on, in any case."""
    return value.strip().lower() in ("1", "true", "yes", "on")
