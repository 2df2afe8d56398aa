"""The VMs as VBoxManage and their settings files show them.

Three things, measured on 7.2, decide what is asked:
- `showvminfo` takes the VM's session lock. Of a VM that runs it shares the lock; of any other it holds it, and the
  user's own `startvm` or `modifyvm` fails meanwhile. So a VM that does not run is read from its settings file.
- `list runningvms` leaves out VMs that run but are being saved, or have a snapshot made or deleted; `list vms --long`
  knows their state, and takes no lock.
- `showvminfo` of a VM that starts or stops may fail in any way: the VM stays as it was, and is asked again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path

from vmdns.core.extradata import IGNORE, NAMES, extra_names, truthy
from vmdns.core.guestinfo import PATTERN, reports
from vmdns.core.model import ONLINE_STATES, Machine, Report
from vmdns.sources import settingsfile, vboxmanage_output
from vmdns.sources.vboxmanage_call import Failed, VBoxManage

MAX_LONG = 50  # VMs up to which `list vms --long` ends soon (50 ms a VM)

_NOT_FOUND = 0x80BB0001
Stamp = tuple[int, int, int] | None


def stamp_of(path: Path) -> Stamp:
    """Another value after the file was replaced or written; None without one."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


@dataclass(slots=True)
class _Vm:
    """One registered VM. listed: its name in `list vms`; looked: monotonic time of its last `showvminfo`;
    asked: the listed name it had when it was asked for although it did not run, for want of a settings file.
    """

    uuid: str
    listed: str
    path: Path | None = None
    stamp: Stamp = None
    settings: Machine | None = None
    fact: Machine | None = None
    looked: float = 0.0
    asked: str | None = None


class Machines:
    """Every registered VM, kept between looks because a look is dear. index is the path of VirtualBox.xml."""

    def __init__(self, call: VBoxManage, index: Path, major: int) -> None:
        self._call = call
        self._index = index
        # 7.0 brought another format, which cuts times to milliseconds, and this option.
        self._format = ("--old-format",) if major >= 7 else ()
        self._vms: dict[str, _Vm] = {}
        self._states: dict[str, str] | None = None
        self.stale = True

    def lacks(self, running: Set[str]) -> bool:
        """Whether one of these UUIDs is not known yet."""
        return not running <= self._vms.keys()

    def relist(self, text: str) -> None:
        """Takes over what `list vms` says. `stale` tells when this is due besides."""
        listed = vboxmanage_output.vms(text)
        paths: dict[str, Path] = {}
        with contextlib.suppress(OSError, settingsfile.Damaged):
            paths = settingsfile.registry(self._index.read_bytes(), self._index.parent)
        self._vms = {uuid: self._vms.get(uuid) or _Vm(uuid, name) for uuid, name in listed.items()}
        for uuid, vm in self._vms.items():
            vm.listed, vm.path = listed[uuid], paths.get(uuid, vm.path)
        self.stale = False

    def look(self, running: Set[str], budget: float) -> Iterator[Machine]:
        """All VMs. Those that run are asked for, for `budget` seconds, new ones first, then the longest not asked."""
        self._states = None
        for vm in self._vms.values():
            self._read_settings(vm)
            if vm.uuid not in running:
                vm.fact = self._resting(vm)
        waiting = [vm for vm in self._vms.values() if vm.uuid in running]
        waiting.sort(key=lambda vm: (vm.fact is not None and vm.fact.online, vm.looked))
        until = time.monotonic() + budget
        for turn, vm in enumerate(waiting):
            vm.fact = self._running(vm, turn == 0 or time.monotonic() < until)
        return (vm.fact for vm in self._vms.values() if vm.fact is not None)

    def _resting(self, vm: _Vm) -> Machine | None:
        """A VM that `list runningvms` does not name."""
        if vm.listed == vboxmanage_output.INACCESSIBLE and (vm.settings is None or vm.settings.name != vm.listed):
            return Machine(vm.uuid, "", accessible=False)
        if vm.fact is not None and vm.fact.online:
            state = self._state(vm.uuid)
            if state in ONLINE_STATES:
                return replace(vm.fact, state=state)
        elif vm.settings is None and vm.asked == vm.listed:
            return vm.fact
        if vm.settings is not None:
            return vm.settings
        vm.asked = vm.listed
        try:
            return self._show(vm)
        except (Failed, ValueError) as error:
            return None if _is_gone(error) else Machine(vm.uuid, vm.listed, "PoweredOff")

    def _running(self, vm: _Vm, may_look: bool) -> Machine | None:
        """A VM that `list runningvms` names; as it was where it is not its turn or cannot be asked just now."""
        before = vm.fact
        if before is None or not before.online:
            before = replace(vm.settings or Machine(vm.uuid, vm.listed), state="Running")
        if not may_look:
            return before
        vm.looked = time.monotonic()
        try:
            machine = self._show(vm)
        except (Failed, ValueError) as error:
            return None if _is_gone(error) else before
        return replace(machine, reports=self._reports(vm.uuid, before.reports)) if machine.online else machine

    def _reports(self, uuid: str, before: tuple[Report, ...]) -> tuple[Report, ...]:
        try:
            told = self._call("guestproperty", "enumerate", uuid, *self._format, "--patterns", PATTERN)
        except Failed:
            return before
        return reports(vboxmanage_output.properties(told))

    def _show(self, vm: _Vm) -> Machine:
        """The VM as VirtualBox has it. Raises `Failed` or ValueError."""
        machine = vboxmanage_output.machine(self._call("showvminfo", vm.uuid, "--machinereadable"))
        if vm.settings is not None:
            return replace(machine, names=vm.settings.names, ignored=vm.settings.ignored)
        extra = vboxmanage_output.extra_data(self._call("getextradata", vm.uuid, "enumerate"))
        return replace(machine, names=extra_names(extra.get(NAMES, "")), ignored=truthy(extra.get(IGNORE, "")))

    def _read_settings(self, vm: _Vm) -> None:
        now = stamp_of(vm.path) if vm.path is not None else None
        if vm.path is None or now == vm.stamp:
            return
        vm.stamp, vm.settings = now, None
        try:
            settings = settingsfile.machine(vm.path.read_bytes())
        except (OSError, settingsfile.Damaged):
            self.stale = True  # VirtualBox may call it inaccessible now
            return
        if vm.listed == vboxmanage_output.INACCESSIBLE:
            self.stale = True  # and now no longer
        vm.settings = settings if settings.uuid == vm.uuid else None

    def _state(self, uuid: str) -> str:
        """The state of a VM that left `list runningvms`; '' where only its settings tell."""
        if self._states is None:
            self._states = {}
            if len(self._vms) <= MAX_LONG:
                with contextlib.suppress(Failed):
                    self._states = vboxmanage_output.states(self._call("list", "vms", "--long"))
        return self._states.get(uuid, "")


def _is_gone(error: Exception) -> bool:
    return isinstance(error, Failed) and error.code == _NOT_FOUND
