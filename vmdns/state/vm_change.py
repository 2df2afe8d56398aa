"""Changes of VMs that users are notified of: a VM that appeared, went, or answers differently."""

from __future__ import annotations

from dataclasses import dataclass

from vmdns.state.snapshot import Guest


@dataclass(frozen=True, slots=True)
class VmChange:
    """One VM whose names or addresses changed: before and after, None where it was not or is no more online."""

    before: Guest | None
    after: Guest | None


def compare_guests(before: Guest | None, after: Guest | None) -> VmChange | None:
    """The change of a VM; None if its answers are unchanged."""
    was = before if before is not None and before.machine.online else None
    now = after if after is not None and after.machine.online else None
    if (was or now) and (was is None or now is None or was.answers != now.answers):
        return VmChange(was, now)
    return None
