"""Reads VirtualBox through VBoxManage and its settings files, where the API cannot be loaded.

VBoxManage has no events, so the reader polls. Each round lists the running VMs; details of running VMs cost more and
get what is left of a tenth of one core. Four facts, measured on 7.2, determine what is called:
- `showvminfo` takes the VM's session lock. For a running VM it shares the lock; for any other it keeps it, and the
  user's `startvm` or `modifyvm` fails meanwhile. So a VM that is not running is read from its settings file.
- `list runningvms` omits running VMs that are being saved or have a snapshot taken or deleted. `list vms --long` has
  each VM's state and takes no lock, but its output is made for people.
- Changes to a running VM, its extra data and networks are saved in the settings files at once.
- `showvminfo` of a VM that starts or stops may fail in any way: the VM is kept as it was, and read again later.

The extra data of a VM whose settings file cannot be read (an encrypted VM, or a file of another user) comes from
`getextradata`, which takes no lock.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from vmdns.files import FileStamp, read_regular, read_stamp
from vmdns.sources import settings_file
from vmdns.sources import vboxmanage as output
from vmdns.sources.installation import Installation, stamp, user_home, windows_user_home
from vmdns.sources.reader import ReaderUnavailable, VirtualBoxInfo, VirtualBoxLost, fact_key, wrong_home
from vmdns.sources.settings_file import InvalidSettingsFile, Registry
from vmdns.sources.vboxmanage import VBoxManage, VBoxManageError
from vmdns.sources.virtualbox_values import GUEST_PROPERTIES, ExtraData, parse_extra, parse_guest_reports
from vmdns.state.external_data import MAX_BYTES
from vmdns.state.facts import ONLINE_STATES, Fact, Machine

ROUND_SECONDS = 2.0  # between rounds, at least
MAX_ROUND_SECONDS = 10.0  # between rounds, at most
REQUEST_SECONDS = 0.5  # between rounds where a look was requested
SHARE = 0.1  # of a core; at most half of it for lists
CREDIT_SECONDS = 0.5  # CPU time that may be saved for details of VMs, or overdrawn where the user changes much
FIRST_SECONDS = 5.0  # CPU time for details of VMs in the first round
FULL_SECONDS = 30.0  # between full rounds, for changes that do not touch VirtualBox.xml
SHOW_SECONDS = 30.0  # between calls of `showvminfo` for a VM whose settings are as they were: it may be paused
MAX_LONG = 50  # VMs for which `list vms --long` is called (50 ms a VM)

_NOT_FOUND = 0x80BB0001
_STEADY = ("Running", "Paused")  # any other state of an online VM ends soon
_NEVER = float("-inf")
_NO_EXTRA = ExtraData((), False, ())


@dataclass(slots=True)
class _Vm:
    """One registered VM: its name in `list vms`, its settings file, and what is known.

    looked, shown: monotonic times at which it was last read, and read with `showvminfo`, while running, in this run and
    with its present settings. extra_known: whether `extra` is that of its present settings.
    """

    name: str
    path: Path | None = None
    stamp: FileStamp = None
    settings: Machine | None = None
    extra: ExtraData = _NO_EXTRA
    extra_known: bool = False
    fact: Machine | None = None
    looked: float = _NEVER
    shown: float = _NEVER


class VBoxManageReader:
    """Reads VirtualBox through VBoxManage; alive is called after each call. Raises `ReaderUnavailable`."""

    def __init__(self, installation: Installation, environ: Mapping[str, str], alive: Callable[[], object]) -> None:
        self._home_is_named = bool(environ.get("VBOX_USER_HOME"))
        home = user_home(environ)
        if sys.platform == "linux" and installation.vboxmanage.suffix == ".exe" and not self._home_is_named:
            home = windows_user_home() or home
        self._installation = installation
        self._stamp = stamp(installation)
        self._call = VBoxManage(installation.vboxmanage, environ, ended=alive)
        try:
            printed = self._call("--version")
        except VBoxManageError as error:
            raise ReaderUnavailable(f"VBoxManage does not work ({error})") from error
        version = re.search(r"^([0-9]+)\.[0-9]+\.\S+?(?=(?:r[0-9]+)?$)", printed, re.MULTILINE)
        if version is None:
            raise ReaderUnavailable(f"{installation.vboxmanage} is not VirtualBox's")
        self.found = VirtualBoxInfo(version[0], "vboxmanage", str(home))
        # 7.0 brought this option, and a new format that truncates times to milliseconds.
        self._format = ("--old-format",) if int(version[1]) >= 7 else ()
        self._index_file = home / "VirtualBox.xml"
        self._index: FileStamp = None
        self._registry = Registry({}, None)
        self._interfaces: list[Fact] = []
        self._vms: dict[str, _Vm] = {}
        self._facts: dict[str, Fact] = {}
        self._began = self._ended = self._next = self._next_full = _NEVER
        self._credit = 0.0
        self._requested = threading.Event()

    def read(self, seconds: float) -> Mapping[str, Fact]:
        if self._requested.wait(max(0.0, min(seconds, self._next - time.monotonic()))):
            self._requested.clear()
            self._next_full = _NEVER
            if self._credit > -CREDIT_SECONDS:
                self._next = min(self._next, self._ended + REQUEST_SECONDS)
        if time.monotonic() >= self._next:
            self._read_round()
        return self._facts

    def request_look(self) -> None:
        self._requested.set()

    def close(self) -> None:
        """Does nothing: no connection stays open between calls of VBoxManage."""

    def _read_round(self) -> None:
        if stamp(self._installation) != self._stamp:
            raise VirtualBoxLost("VirtualBox was upgraded or removed")
        began, spent = time.monotonic(), self._call.spent
        first = self._began == _NEVER
        running = output.parse_vms(self._list("list", "runningvms")).keys()
        list_cost = self._call.spent - spent
        if began >= self._next_full or read_stamp(self._index_file) != self._index or not running <= self._vms.keys():
            self._list_all()
            self._next_full = began + FULL_SECONDS
        listed = self._call.spent
        earned = FIRST_SECONDS if first else SHARE * (began - self._began) - (listed - spent)
        budget = min(FIRST_SECONDS if first else CREDIT_SECONDS, self._credit + earned)
        self._read_machines(running, budget)
        self._credit = 0.0 if first else max(-CREDIT_SECONDS, budget - (self._call.spent - listed))
        self._began, self._ended = began, time.monotonic()
        self._next = self._ended + min(MAX_ROUND_SECONDS, max(ROUND_SECONDS, list_cost * 2 / SHARE))
        machines = [
            # Adapters matter for online VMs only; the API reader reads no others either.
            replace(vm.fact, registration_index=at, adapters=vm.fact.adapters if vm.fact.online else ())
            for at, vm in enumerate(self._vms.values())
            if vm.fact is not None
        ]
        networks = settings_file.read_networks(self._registry, self._adapter_mac)
        self._facts = {fact_key(fact): fact for fact in (*networks, *self._interfaces, *machines)}

    def _list_all(self) -> None:
        """Lists VMs and networks."""
        index, listed = read_stamp(self._index_file), output.parse_vms(self._list("list", "vms"))
        registry = settings_file.read_registry(self._index_file)
        is_ours = not self._home_is_named or settings_file.is_registry_of(registry, listed)
        if not is_ours and read_stamp(self._index_file) == index:
            raise wrong_home(str(self._index_file.parent))
        self._index = index
        if registry is not None and (registry.paths or registry.networks is not None):  # VirtualBox is not replacing it
            self._registry = registry
        paths = self._registry.paths
        self._vms = {
            uuid: self._vms.get(uuid) or _Vm(name)
            for uuid, name in listed.items()
            if uuid in paths or not paths  # a name may look like a line of the list
        }
        for uuid, vm in self._vms.items():
            vm.name, vm.path = listed[uuid], paths.get(uuid)
            if vm.settings is None:  # nothing may tell when it changes
                vm.stamp, vm.extra_known = None, False
        self._interfaces = [*output.parse_host_interfaces(self._list("list", "hostonlyifs"))]

    def _read_machines(self, running: Set[str], budget: float) -> None:
        """Reads all VMs. Running ones until `budget` (CPU seconds) is spent: changed ones first, then by the time of
        the last read. The others are as in their settings files."""
        for uuid, vm in self._vms.items():
            self._read_settings(uuid, vm)
        stopped = [uuid for uuid, vm in self._vms.items() if uuid not in running and vm.fact and vm.fact.online]
        states: dict[str, tuple[str, float]] = {}
        if stopped and len(self._vms) <= MAX_LONG:
            with suppress(VBoxManageError):
                states = output.parse_states(self._call("list", "vms", "--long"))
        for uuid, vm in self._vms.items():
            if uuid not in running:
                vm.fact = _offline_machine(uuid, vm, *states.get(uuid, ("", 0.0)))
                vm.looked = vm.shown = _NEVER
        end = self._call.spent + budget
        for uuid in sorted(running & self._vms.keys(), key=lambda uuid: self._vms[uuid].looked):
            vm = self._vms[uuid]
            if vm.fact is None or not vm.fact.online:
                vm.fact = replace(_machine_as_set(uuid, vm), state="Running", state_changed=0.0)
            if self._call.spent < end:
                self._read_machine(uuid, vm, vm.fact)
        for uuid, vm in self._vms.items():
            if not vm.extra_known and vm.fact is not None and vm.fact.accessible and self._call.spent < end:
                vm.extra_known = True
                with suppress(VBoxManageError):
                    vm.extra = parse_extra(output.parse_extra_data(self._call("getextradata", uuid, "enumerate")))
                vm.fact = replace(vm.fact, **vm.extra._asdict())

    def _read_machine(self, uuid: str, vm: _Vm, machine: Machine) -> None:
        """Reads a running VM, which stays as it was if it cannot be read now."""
        vm.looked = time.monotonic()
        before = machine.reports
        if vm.looked >= vm.shown + SHOW_SECONDS:
            try:
                machine = _with_texts(output.parse_machine(self._call("showvminfo", uuid, "--machinereadable")), vm)
            except (VBoxManageError, ValueError) as error:
                if isinstance(error, VBoxManageError) and error.code == _NOT_FOUND:
                    vm.fact = None
                return
            if machine.state in _STEADY:
                vm.shown = vm.looked
            machine = replace(machine, **vm.extra._asdict())
        if machine.online:
            reports = before
            with suppress(VBoxManageError):
                text = self._call("guestproperty", "enumerate", uuid, *self._format, "--patterns", GUEST_PROPERTIES)
                reports = parse_guest_reports(output.parse_properties(text), machine.state)
            machine = replace(machine, reports=reports)
        vm.fact = machine

    def _read_settings(self, uuid: str, vm: _Vm) -> None:
        now = read_stamp(vm.path) if vm.path is not None else None
        if vm.path is None or now == vm.stamp:
            return
        vm.stamp, vm.settings, vm.extra_known = now, None, False
        vm.looked = vm.shown = _NEVER
        with suppress(OSError, InvalidSettingsFile):  # encrypted, or another user's
            settings = settings_file.parse_machine(read_regular(vm.path, MAX_BYTES))
            if settings.uuid == uuid:
                vm.settings, vm.extra_known = settings, True
                vm.extra = ExtraData(settings.names, settings.ignored, settings.set_addresses)

    def _adapter_mac(self, name: str, slot: int) -> str:
        """The MAC of an adapter of a VM, by its name or UUID; '' if there is none."""
        machines = (vm.settings or vm.fact for uuid, vm in self._vms.items() if name in (uuid, vm.name))
        return next((one.mac for machine in machines if machine for one in machine.adapters if one.slot == slot), "")

    def _list(self, *arguments: str) -> str:
        """Calls VBoxManage, and again if that fails. Raises `VirtualBoxLost` if the second call fails too."""
        with suppress(VBoxManageError):
            return self._call(*arguments)
        try:
            return self._call(*arguments)
        except VBoxManageError as error:
            raise VirtualBoxLost(f"VBoxManage fails ({error})") from error


def _offline_machine(uuid: str, vm: _Vm, state: str, since: float) -> Machine:
    """A VM that is not in `list runningvms`; state and since are as in `list vms --long`, if it was called."""
    if vm.fact is not None and vm.fact.online and state in ONLINE_STATES:
        return replace(vm.fact, state=state, state_changed=since)
    if vm.name == output.INACCESSIBLE and (vm.settings is None or vm.settings.name != vm.name):
        return Machine(uuid, "", accessible=False)
    return _machine_as_set(uuid, vm)


def _with_texts(machine: Machine, vm: _Vm) -> Machine:
    """The VM with the texts of its settings file: VBoxManage on Windows prints them in the system's code page, which
    lacks most letters."""
    if vm.settings is None:
        return machine
    named = {one.slot: one.network for one in vm.settings.adapters if not one.network.name.isascii()}
    adapters = (replace(one, network=named.get(one.slot, one.network)) for one in machine.adapters)
    return replace(machine, name=vm.settings.name, groups=vm.settings.groups, adapters=tuple(adapters))


def _machine_as_set(uuid: str, vm: _Vm) -> Machine:
    """A VM as it is powered off, by its settings file if that can be read."""
    return vm.settings or Machine(uuid, vm.name, "PoweredOff", **vm.extra._asdict())
