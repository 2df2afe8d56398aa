"""What a user may say of a VM in its extra data: `VBoxManage setextradata VM vmdns/names web,shop`."""

from __future__ import annotations

NAMES = "vmdns/names"
IGNORE = "vmdns/ignore"
MAX_NAMES = 32


def extra_names(value: str) -> tuple[str, ...]:
    """The names in a value of `vmdns/names`: comma separated, the first 32, as written and in that order."""
    return tuple(name for part in value.split(",") if (name := part.strip()))[:MAX_NAMES]


def truthy(value: str) -> bool:
    """Whether a value such as that of `vmdns/ignore` means yes: 1, true, yes or on, in any case."""
    return value.strip().lower() in ("1", "true", "yes", "on")
