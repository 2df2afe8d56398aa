"""Any output of VBoxManage gives facts of the right shape or ValueError, and a VM's name stays what the user made it.

The first byte of the data chooses: text as VBoxManage might print it, or a name, which is put where VBoxManage puts it.
"""

from __future__ import annotations

import contextlib
from ipaddress import ip_interface

from vmdns.sources import vboxmanage as output
from vmdns.state.facts import HostInterface, Machine, from_json, to_json

UUID = "0f0e0d0c-0b0a-4908-8706-050403020100"
SHOWN = 'groups="/"\nostype="Other"\nUUID="' + UUID + '"\nVMState="running"\n'


def check(data: bytes) -> None:
    text = data[1:].decode("utf-8", "replace")
    if data[:1] < b"\xc0":
        _any(text)
    else:
        _name(text)


def _any(text: str) -> None:
    for uuid, name in output.parse_vms(text).items():
        assert uuid
        assert isinstance(name, str)
    output.parse_states(text)
    for key, (value, time) in output.parse_properties(text).items():
        assert key.startswith("/")
        assert isinstance(value, str)
        assert isinstance(time, float)
    with contextlib.suppress(ValueError):
        _check_fact(output.parse_machine(text))
    for one in output.parse_host_interfaces(text):
        _check_fact(one)
        ip_interface(one.prefix)


def _check_fact(fact: Machine | HostInterface) -> None:
    assert from_json(to_json(fact)) == fact, "the worker could not report it"


def _name(name: str) -> None:
    name = name.replace("\0", "")
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    shown = output.parse_machine(f'name="{quoted}"\n{SHOWN}')
    assert shown.name == name
    if f'"\n{SHOWN}' not in name and "UUID=" not in name and "VMState=" not in name:
        assert (shown.uuid, shown.state) == (UUID, "Running")
    if "\n" not in name and '" {' not in name:
        assert output.parse_vms(f'"{name}" {{{UUID}}}\n') == {UUID: name}
