"""Any bytes of a settings file give a VM, or a list of VMs, of the right shape, or are InvalidSettingsFile.

The first byte of the data says which of both files it is.
"""

from __future__ import annotations

from pathlib import Path

from vmdns.sources.settings_file import InvalidSettingsFile, parse_machine, parse_registry, read_networks
from vmdns.state.facts import Machine, from_json, to_json


def check(data: bytes) -> None:
    try:
        if data[:1] < b"\x80":
            found = parse_machine(data[1:])
        else:
            registry = parse_registry(data[1:], Path("/home"))
            for network in read_networks(registry, lambda vm, slot: "080027000001"):
                assert from_json(to_json(network)) == network
            for uuid, path in registry.paths.items():
                assert uuid and uuid == uuid.strip("{}").lower()
                assert isinstance(path, Path)
            return
    except InvalidSettingsFile:
        return
    assert isinstance(found, Machine)
    assert not found.online
    assert found.uuid
    assert len(found.names) <= 32
    assert from_json(to_json(found)) == found, "the worker could not tell it"
