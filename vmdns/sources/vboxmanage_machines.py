"""The VMs as VBoxManage and their settings files show them.

Four things, measured on 7.2, decide what is asked:
- `showvminfo` takes the VM's session lock. Of a VM that runs it shares the lock; of any other it holds it, and the
  user's own `startvm` or `modifyvm` fails meanwhile. So a VM that does not run is read from its settings file.
- `list runningvms` leaves out VMs that run but are being saved, or have a snapshot made or deleted; with `--long` the
  lists know each VM's state, take no lock, and a quarter of the time of `showvminfo`. But they are made for people.
- What is changed while a VM runs is saved in its settings file at once; so is its extra data.
- `showvminfo` of a VM that starts or stops may fail in any way: the VM stays as it was, and is asked again.
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
from vmdns.sources.vboxmanage_call import Failed, VBoxManage
from vmdns.state.extradata import parse_extra
from vmdns.state.facts import ONLINE_STATES, Machine, Report
from vmdns.state.guest_properties import PATTERN, reports
from vmdns.state.xml_tree import MAX_BYTES

MAX_LONG = 50  # VMs up to which `list vms --long` ends soon (50 ms a VM)
# Between looks at the states of all running VMs, per VM and at least. Nothing else changes without a new settings file.
STATE_SECONDS = 2.0
STATES_SECONDS = 10.0

_NOT_FOUND = 0x80BB0001
Stamp = tuple[int, int, int] | None


def stamp_of(path: Path) -> Stamp:
    """Another value after the file was replaced or written; None without one."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def registered(index: Path, text: str) -> tuple[dict[str, Path], bool]:
    """The settings file of each VM in VirtualBox.xml, by UUID, and whether those can be the VMs in `text`, what
    `list vms` printed: one VM at least is in both, or there are none.

    VBoxManage talks to the VBoxSVC that runs, whatever its home.
    """
    listed = vboxmanage_output.vms(text)
    try:
        paths = settings_file.registry(read_regular(index, MAX_BYTES), index.parent)
    except FileNotFoundError:
        return {}, not listed
    except (OSError, settings_file.Damaged):
        return {}, True
    return paths, not (listed.keys().isdisjoint(paths) if listed else paths and not text.strip())


@dataclass(slots=True)
class _Vm:
    """One registered VM.

    listed: its name in `list vms`; index: its place there, in the order of registration;
    looked: monotonic time of the last look at it while it ran;
    shown: whether `showvminfo` showed it in this run, with the settings as they are;
    asked: its listed name when it was asked for although it did not run, for want of a settings file.
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
    asked: str | None = None


class Machines:
    """Every registered VM, kept between looks because a look is dear. index is the path of VirtualBox.xml."""

    def __init__(self, call: VBoxManage, index: Path, major: int) -> None:
        self._call = call
        self._index = index
        # 7.0 brought another format, which cuts times to milliseconds, and this option.
        self._format = ("--old-format",) if major >= 7 else ()
        self._vms: dict[str, _Vm] = {}
        self._next_index = count()
        self._states: dict[str, tuple[str, float]] | None = None
        self._stated = time.monotonic()
        self.stale = True

    def lacks(self, running: Set[str]) -> bool:
        """Whether one of these UUIDs is not known yet."""
        return not running <= self._vms.keys()

    def relist(self, text: str) -> bool:
        """Takes over what `list vms` says. `stale` tells when this is due besides.

        Returns whether those can be the VMs of VirtualBox.xml (`registered`).
        """
        listed = vboxmanage_output.vms(text)
        paths, known = registered(self._index, text)
        self._vms = {
            uuid: self._vms.get(uuid) or _Vm(uuid, name, next(self._next_index)) for uuid, name in listed.items()
        }
        for uuid, vm in self._vms.items():
            vm.listed, vm.path = listed[uuid], paths.get(uuid, vm.path)
        self.stale = False
        return known

    def look(self, running: Set[str], budget: float) -> Iterator[Machine]:
        """All VMs. Those that run are looked at until `budget` is spent: changed ones first, then the oldest look.

        budget is in seconds of a processor. The others are as they were, or as their settings have them.
        """
        self._states = None
        for vm in self._vms.values():
            self._read_settings(vm)
            if vm.uuid not in running:
                vm.fact, vm.shown = self._resting(vm), False
        waiting = [vm for vm in self._vms.values() if vm.uuid in running]
        waiting.sort(key=lambda vm: (vm.shown, vm.looked))
        end = self._call.spent + budget
        due = self._stated + max(STATES_SECONDS, STATE_SECONDS * len(waiting))
        if waiting and budget > 0 and time.monotonic() >= due:
            self._look_at_states(waiting)
        for vm in waiting:
            vm.fact = self._running(vm, self._call.spent < end)
        facts = ((vm.index, vm.fact) for vm in self._vms.values() if vm.fact is not None)
        # Adapters matter of an online VM alone, and the API's reader does not read them of others.
        return (
            replace(fact, registration_index=index, adapters=fact.adapters if fact.online else ())
            for index, fact in facts
        )

    def _resting(self, vm: _Vm) -> Machine | None:
        """A VM that `list runningvms` does not name."""
        if vm.listed == vboxmanage_output.INACCESSIBLE and (vm.settings is None or vm.settings.name != vm.listed):
            return Machine(vm.uuid, "", accessible=False)
        if vm.fact is not None and vm.fact.online:
            saved = vm.settings is not None and "Saved" in vm.settings.state
            state, since = ("", 0.0) if saved else self._state(vm.uuid)
            if state in ONLINE_STATES:
                return replace(vm.fact, state=state, state_changed=since)
        elif vm.settings is None and vm.asked == vm.listed:
            return vm.fact
        if vm.settings is not None:
            return vm.settings
        vm.asked = vm.listed
        try:
            return self._show(vm)
        except (Failed, ValueError) as error:
            return None if _is_gone(error) else Machine(vm.uuid, vm.listed, "PoweredOff")

    def _look_at_states(self, waiting: list[_Vm]) -> None:
        self._stated = time.monotonic()
        states: dict[str, tuple[str, float]] = {}
        with contextlib.suppress(Failed):
            states = vboxmanage_output.states(self._call("list", "runningvms", "--long"))
        for vm in waiting:
            state, since = states.get(vm.uuid, ("", 0.0))
            if vm.fact is not None and vm.fact.online and state in ONLINE_STATES:
                vm.fact = replace(vm.fact, state=state, state_changed=since)

    def _running(self, vm: _Vm, may_look: bool) -> Machine | None:
        """A VM that `list runningvms` names; as it was where it is not its turn or cannot be asked just now."""
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
            except (Failed, ValueError) as error:
                return None if _is_gone(error) else before
            vm.shown = True
        return replace(machine, reports=self._reports(machine, before.reports)) if machine.online else machine

    def _reports(self, machine: Machine, before: tuple[Report, ...]) -> tuple[Report, ...]:
        try:
            told = self._call("guestproperty", "enumerate", machine.uuid, *self._format, "--patterns", PATTERN)
        except Failed:
            return before
        return reports(vboxmanage_output.properties(told), machine.state)

    def _show(self, vm: _Vm) -> Machine:
        """The VM as VirtualBox has it. Raises `Failed` or ValueError."""
        machine = vboxmanage_output.machine(self._call("showvminfo", vm.uuid, "--machinereadable"))
        if vm.settings is not None:
            settings = vm.settings
            return replace(
                machine, names=settings.names, ignored=settings.ignored, set_addresses=settings.set_addresses
            )
        extra = vboxmanage_output.extra_data(self._call("getextradata", vm.uuid, "enumerate"))
        return replace(machine, **parse_extra(extra)._asdict())

    def _read_settings(self, vm: _Vm) -> None:
        now = stamp_of(vm.path) if vm.path is not None else None
        if vm.path is None or now == vm.stamp:
            return
        vm.stamp, vm.settings, vm.shown = now, None, False
        try:
            settings = settings_file.machine(read_regular(vm.path, MAX_BYTES))
        except (OSError, settings_file.Damaged):
            self.stale = True  # VirtualBox may call it inaccessible now
            return
        if vm.listed == vboxmanage_output.INACCESSIBLE:
            self.stale = True  # and now no longer
        vm.settings = settings if settings.uuid == vm.uuid else None

    def _state(self, uuid: str) -> tuple[str, float]:
        """The state of a VM that left `list runningvms`, and since when; '' where only its settings tell."""
        if self._states is None:
            self._states = {}
            if len(self._vms) <= MAX_LONG:
                with contextlib.suppress(Failed):
                    self._states = vboxmanage_output.states(self._call("list", "vms", "--long"))
        return self._states.get(uuid, ("", 0.0))


def _is_gone(error: Exception) -> bool:
    return isinstance(error, Failed) and error.code == _NOT_FOUND
