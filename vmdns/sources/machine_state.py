"""MachineState's numbers by version of the API: 7.0 put AbortedSaved in at 5 and moved all that follow."""

from __future__ import annotations

from collections.abc import Mapping

# VirtualBox 6.1 SDK reference, enum MachineState.
_V6 = (
    "Null", "PoweredOff", "Saved", "Teleported", "Aborted", "Running", "Paused", "Stuck", "Teleporting",
    "LiveSnapshotting", "Starting", "Stopping", "Saving", "Restoring", "TeleportingPausedVM", "TeleportingIn",
    "DeletingSnapshotOnline", "DeletingSnapshotPaused", "OnlineSnapshotting", "RestoringSnapshot",
    "DeletingSnapshot", "SettingUp", "Snapshotting",
)  # fmt: skip


def state_names(constants: Mapping[str, int], api_version: str) -> dict[int, str]:
    """Names of the states by number, for an API version such as `7_2`.

    constants are those of the vboxapi at hand. They are the running version's own where vboxapi comes from the
    installation; the one of the vbox-sdk package may be newer than VirtualBox, which its number of Running shows.
    """
    old = api_version.partition("_")[0] in ("4", "5", "6")
    if constants.get("Running") != (5 if old else 6):
        names = _V6 if old else (*_V6[:5], "AbortedSaved", *_V6[5:])
        return dict(enumerate(names))
    return {value: name for name, value in constants.items() if not name.startswith(("First", "Last"))}
