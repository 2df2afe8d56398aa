"""Reads VMs with VBoxManage and from their settings files.

Four facts, measured on 7.2, determine what is called:
- `showvminfo` takes the VM's session lock. For a running VM it shares the lock; for any other it keeps it, and the
  user's `startvm` or `modifyvm` fails meanwhile. So a VM that is not running is read from its settings file.
- `list runningvms` omits running VMs that are being saved or have a snapshot taken or deleted. With `--long`, lists
  have each VM's state, take no lock and a quarter of the time of `showvminfo`, but their output is made for people.
- Changes to a running VM and its extra data are saved in its settings file at once.
- `showvminfo` of a VM that starts or stops may fail in any way: the VM is kept as it was, and read again later.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from vmdns.regular_file import read_regular
from vmdns.sources import settings_file, vboxmanage_output
from vmdns.sources.vboxmanage_call import VBoxManage, VBoxManageError
from vmdns.sources.virtualbox_values import GUEST_PROPERTIES, parse_extra, parse_guest_reports
from vmdns.state.facts import ONLINE_STATES, GuestReport, Machine
from vmdns.state.xml_tree import MAX_BYTES

MAX_LONG = 50  # VMs for which `list vms --long` is called (50 ms a VM)
# Between reads of the states of all running VMs, per VM and at least. Anything else changes the settings file too.
STATE_SECONDS = 2.0
STATES_SECONDS = 10.0

_NOT_FOUND = 0x80BB0001
Stamp = tuple[int, int, int] | None


def file_stamp(path: Path) -> Stamp:
    """A value that changes when the file is replaced or written; None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def read_registered(index: Path, text: str) -> tuple[dict[str, Path], bool]:
    """The settings file of each VM in VirtualBox.xml, by UUID, and whether that file can be the one of the VBoxSVC that
    printed `text` for `list vms`: at least one VM is in both, or neither has any.

    VBoxManage connects to the running VBoxSVC, whatever its home.
    """
    listed = vboxmanage_output.parse_vms(text)
    try:
        paths = settings_file.parse_registry(read_regular(index, MAX_BYTES), index.parent)
    except FileNotFoundError:
        return {}, not listed
    except (OSError, settings_file.InvalidSettingsFile):
        return {}, True
    return paths, not (listed.keys().isdisjoint(paths) if listed else paths and not text.strip())


@dataclass(slots=True)
class _Vm:
    """One registered VM.

    listed: its name in `list vms`; index: its place there, in the order of registration;
    looked: monotonic time at which it was last read while running;
    shown: whether `showvminfo` showed it in this run with its present settings;
    shown_as: its listed name when `showvminfo` was called although it was not running, because it has no settings file.
    """

    uuid: str
    listed: str
    index: int
    path: Path | None = None
    stamp: Stamp = None
    settings: Machine | None = None
    fact: Machine | None = None
    looked: float = float("-inf")
    shown: bool = False
    shown_as: str | None = None


class MachineList:
    """All registered VMs, cached because reading one is slow. index is the path of VirtualBox.xml."""

    def __init__(self, call: VBoxManage, index: Path, major: int) -> None:
        self._call = call
        self._index = index
        # 7.0 brought this option, and a new format that truncates times to milliseconds.
        self._format = ("--old-format",) if major >= 7 else ()
        self._vms: dict[str, _Vm] = {}
        self._next_index = count()
        self._states: dict[str, tuple[str, float]] | None = None
        self._stated = time.monotonic()
        self.stale = True

    def lacks(self, running: Set[str]) -> bool:
        """Whether one of these UUIDs is unknown."""
        return not running <= self._vms.keys()

    def relist(self, text: str) -> bool:
        """Replaces the list of VMs by the output of `list vms`. `stale` is true when this is due.

        Returns whether these can be the VMs of VirtualBox.xml (`read_registered`).
        """
        listed = vboxmanage_output.parse_vms(text)
        paths, known = read_registered(self._index, text)
        self._vms = {
            uuid: self._vms.get(uuid) or _Vm(uuid, name, next(self._next_index)) for uuid, name in listed.items()
        }
        for uuid, vm in self._vms.items():
            vm.listed, vm.path = listed[uuid], paths.get(uuid, vm.path)
        self.stale = False
        return known

    def look(self, running: Set[str], budget: float) -> Iterator[Machine]:
        """All VMs. Running ones are read until `budget` (CPU seconds) is spent: changed ones first, then by the time of
        the last read. The others are as they were, or as in their settings files.
        """
        self._states = None
        for vm in self._vms.values():
            self._read_settings(vm)
            if vm.uuid not in running:
                vm.fact, vm.shown = self._offline_machine(vm), False
        running_vms = [vm for vm in self._vms.values() if vm.uuid in running]
        running_vms.sort(key=lambda vm: (vm.shown, vm.looked))
        end = self._call.spent + budget
        due = self._stated + max(STATES_SECONDS, STATE_SECONDS * len(running_vms))
        if running_vms and budget > 0 and time.monotonic() >= due:
            self._read_states(running_vms)
        for vm in running_vms:
            vm.fact = self._online_machine(vm, self._call.spent < end)
        facts = ((vm.index, vm.fact) for vm in self._vms.values() if vm.fact is not None)
        # Adapters matter for online VMs only; the API reader reads no others either.
        return (
            replace(fact, registration_index=index, adapters=fact.adapters if fact.online else ())
            for index, fact in facts
        )

    def _offline_machine(self, vm: _Vm) -> Machine | None:
        """A VM that is not in `list runningvms`."""
        if vm.listed == vboxmanage_output.INACCESSIBLE and (vm.settings is None or vm.settings.name != vm.listed):
            return Machine(vm.uuid, "", accessible=False)
        if vm.fact is not None and vm.fact.online:
            saved = vm.settings is not None and "Saved" in vm.settings.state
            state, since = ("", 0.0) if saved else self._state(vm.uuid)
            if state in ONLINE_STATES:
                return replace(vm.fact, state=state, state_changed=since)
        elif vm.settings is None and vm.shown_as == vm.listed:
            return vm.fact
        if vm.settings is not None:
            return vm.settings
        vm.shown_as = vm.listed
        try:
            return self._show(vm)
        except (VBoxManageError, ValueError) as error:
            return None if _is_gone(error) else Machine(vm.uuid, vm.listed, "PoweredOff")

    def _read_states(self, running_vms: list[_Vm]) -> None:
        self._stated = time.monotonic()
        states: dict[str, tuple[str, float]] = {}
        with contextlib.suppress(VBoxManageError):
            states = vboxmanage_output.parse_states(self._call("list", "runningvms", "--long"))
        for vm in running_vms:
            state, since = states.get(vm.uuid, ("", 0.0))
            if vm.fact is not None and vm.fact.online and state in ONLINE_STATES:
                vm.fact = replace(vm.fact, state=state, state_changed=since)

    def _online_machine(self, vm: _Vm, may_look: bool) -> Machine | None:
        """A VM in `list runningvms`; as it was if it is not its turn or it cannot be read now."""
        before = vm.fact
        if before is None or not before.online:
            before = replace(vm.settings or Machine(vm.uuid, vm.listed), state="Running", state_changed=0.0)
        if not may_look:
            return before
        vm.looked = time.monotonic()
        machine = before
        if not vm.shown or vm.settings is None:
            try:
                machine = self._show(vm)
            except (VBoxManageError, ValueError) as error:
                return None if _is_gone(error) else before
            vm.shown = True
        return replace(machine, reports=self._reports(machine, before.reports)) if machine.online else machine

    def _reports(self, machine: Machine, before: tuple[GuestReport, ...]) -> tuple[GuestReport, ...]:
        try:
            text = self._call("guestproperty", "enumerate", machine.uuid, *self._format, "--patterns", GUEST_PROPERTIES)
        except VBoxManageError:
            return before
        return parse_guest_reports(vboxmanage_output.parse_properties(text), machine.state)

    def _show(self, vm: _Vm) -> Machine:
        """The VM as `showvminfo` shows it. Raises `VBoxManageError` or ValueError."""
        machine = vboxmanage_output.parse_machine(self._call("showvminfo", vm.uuid, "--machinereadable"))
        if vm.settings is not None:
            settings = vm.settings
            return replace(
                machine, names=settings.names, ignored=settings.ignored, set_addresses=settings.set_addresses
            )
        extra = vboxmanage_output.parse_extra_data(self._call("getextradata", vm.uuid, "enumerate"))
        return replace(machine, **parse_extra(extra)._asdict())

    def _read_settings(self, vm: _Vm) -> None:
        now = file_stamp(vm.path) if vm.path is not None else None
        if vm.path is None or now == vm.stamp:
            return
        vm.stamp, vm.settings, vm.shown = now, None, False
        try:
            settings = settings_file.parse_machine(read_regular(vm.path, MAX_BYTES))
        except (OSError, settings_file.InvalidSettingsFile):
            self.stale = True  # it may be inaccessible now
            return
        if vm.listed == vboxmanage_output.INACCESSIBLE:
            self.stale = True  # it may be accessible again
        vm.settings = settings if settings.uuid == vm.uuid else None

    def _state(self, uuid: str) -> tuple[str, float]:
        """The state of a VM that left `list runningvms`, and since when; '' if it must come from its settings file."""
        if self._states is None:
            self._states = {}
            if len(self._vms) <= MAX_LONG:
                with contextlib.suppress(VBoxManageError):
                    self._states = vboxmanage_output.parse_states(self._call("list", "vms", "--long"))
        return self._states.get(uuid, ("", 0.0))


def _is_gone(error: Exception) -> bool:
    return isinstance(error, VBoxManageError) and error.code == _NOT_FOUND
