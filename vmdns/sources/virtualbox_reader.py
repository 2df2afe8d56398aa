"""Reads VirtualBox through its API: everything first, then each VM that an event names.

Two faults, measured on 7.2, determine the design:
- an XPCOM client whose VBoxSVC died can never connect again, so `VirtualBoxLost` ends the process;
- pyvbox's `events.register_callback` passes null events on to eventProcessed, which kills VBoxSVC. This reader has a
  passive listener of its own and drops null events (IEventSource.getEvent returns one at each timeout).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from typing import Any

from vmdns.sources.installation import Installation, stamp
from vmdns.sources.reader import VirtualBoxInfo, VirtualBoxLost, VirtualBoxUpgraded, fact_key
from vmdns.sources.virtualbox_api import OBJECT_NOT_FOUND, Api
from vmdns.sources.virtualbox_facts import read_interfaces, read_machine, read_networks, read_state
from vmdns.state.facts import Fact, Machine

_NET = "/VirtualBox/GuestInfo/Net/"
_EVENTS = (
    "OnMachineStateChanged", "OnMachineDataChanged", "OnMachineRegistered", "OnExtraDataChanged",
    "OnGuestPropertyChanged", "OnNATRedirect", "OnNATNetworkChanged", "OnNATNetworkStartStop", "OnNATNetworkAlter",
    "OnNATNetworkCreationDeletion", "OnNATNetworkSetting", "OnNATNetworkPortForward", "OnSnapshotRestored",
    "OnMachineGroupsChanged", "OnHostNameResolutionConfigurationChange",
)  # fmt: skip


class ApiReader:
    """Reads VirtualBox through its API. `moved` is the monotonic time of the last call that returned."""

    def __init__(self, installation: Installation, environ: Mapping[str, str], interval: float = 30.0) -> None:
        self._installation = installation
        self._interval = interval
        self._api = Api(installation, environ)
        vbox = self._api.vbox
        with self._connected():
            self.found = VirtualBoxInfo(str(vbox.version), "api", str(vbox.homeFolder))
            self._source = vbox.eventSource
        self._event_names = {self._api.events[name]: name for name in _EVENTS if name in self._api.events}
        self.moved = time.monotonic()
        self._stamp = stamp(installation)
        self._proxies: dict[str, Any] = {}
        self._facts: dict[str, Fact] = {}
        self._kinds: dict[str, set[str]] = {}  # the keys of networks and of interfaces
        self._interfaces: list[tuple[int, str]] = []
        self._counts: dict[str, str] = {}
        self._registered: dict[str, int] = {}  # by UUID, in VirtualBox's order, which is that of registration
        self._next_index = count()
        self._due: dict[str, None] = {}  # VMs to read, in the order of their events
        self._networks_due = self._interfaces_due = False
        self._looked = 0.0
        self._networks_requested = self._look_requested = False
        self._turn = 0
        self._index: tuple[int, int] | None = None
        self._listener: Any = None

    # -- Reader ---------------------------------------------------------------------------------------------

    def look(self) -> Mapping[str, Fact]:
        with self._connected():
            return self._read_all()

    def wait(self, seconds: float) -> Mapping[str, Fact | None]:
        with self._connected():
            return self._wait(time.monotonic() + seconds)

    def request_network_look(self) -> None:
        self._networks_requested = True

    def request_look(self) -> None:
        self._look_requested = self._networks_requested = True

    def close(self) -> None:
        with suppress(Exception):  # a VBoxSVC that ended has no listener any more
            if self._listener is not None:
                self._source.unregisterListener(self._listener)
        self._source = self._listener = self._api.vbox = None
        self._proxies.clear()
        self._api.manager.deinit()

    # -- reads ----------------------------------------------------------------------------------------------

    def _read_all(self) -> Mapping[str, Fact]:
        self._register()  # before reading, so that no event is missed
        self._facts = {}
        self._read_networks({})
        self._list()
        for uuid in list(self._proxies):
            machine = self._machine(uuid)
            if machine is not None:
                self._facts[fact_key(machine)] = machine
        self._looked = time.monotonic()
        self._interfaces_due = True
        return dict(self._facts)

    def _wait(self, until: float) -> Mapping[str, Fact | None]:
        while True:
            changes = self._read_due() or self._read_events(max(0.0, min(until - time.monotonic(), 1.0)))
            if self._networks_requested:
                self._networks_requested = False
                self._networks_due = True
            if self._look_requested or time.monotonic() - self._looked >= self._interval:
                self._look_requested = False
                self._read_periodically(changes)
            if changes or time.monotonic() >= until:
                return changes

    def _read_events(self, seconds: float) -> dict[str, Fact | None]:
        """Waits for events, and reads the state of the VMs that they name."""
        changes: dict[str, Fact | None] = {}
        event = self._next_event(int(seconds * 1000))
        uuids: dict[str, None] = {}
        networks = False
        for _ in range(500):
            if event is None:
                break
            name = self._event_names.get(event.type, "")
            uuid = self._vm_of_event(event, name)
            if uuid:
                uuids[uuid] = None
            networks = networks or "NATNetwork" in name or name.startswith("OnHost")
            self._source.eventProcessed(self._listener, event)
            event = self._next_event(0)
        for uuid in uuids:
            self._read_state(uuid, changes)
        self._due.update(uuids)
        self._networks_due = self._networks_due or networks
        return changes

    def _read_state(self, uuid: str, changes: dict[str, Fact | None]) -> None:
        """Reads in two calls what addresses depend on most. The whole VM is read afterwards."""
        before = self._facts.get(f"machine:{uuid}")
        raw = self._proxies.get(uuid)
        if raw is None or not isinstance(before, Machine) or not before.accessible:
            return
        try:
            now = read_state(self._api, raw, before)
            if before.online or not now.online:  # adapters of a VM that comes online are not read yet
                self._record(f"machine:{uuid}", now, changes)
        except Exception as error:
            self._api.check(error)

    def _read_due(self) -> dict[str, Fact | None]:
        changes: dict[str, Fact | None] = {}
        due, self._due = self._due, {}
        for uuid in due:
            self._read_again(uuid, changes)
        if self._networks_due:
            self._networks_due = False
            self._read_networks(changes)
        if self._interfaces_due:
            self._interfaces_due = False
            self._read_interfaces(changes)
        return changes

    def _next_event(self, milliseconds: int) -> Any:
        try:
            event = self._source.getEvent(self._listener, milliseconds)
        except Exception as error:
            if self._api.code(error) != OBJECT_NOT_FOUND:
                raise
            # VBoxSVC drops a listener that was not read for long. Everything is read again.
            self._listener = None
            self._register()
            self._looked = -self._interval
            return None
        self.moved = time.monotonic()
        return event

    def _vm_of_event(self, event: Any, name: str) -> str:
        """The UUID of the VM that must be read because of this event; '' for none."""
        cast = self._api.manager.queryInterface
        if name == "OnGuestPropertyChanged":
            change = cast(event, "IGuestPropertyChangedEvent")
            return str(change.machineId) if self._is_relevant(change) else ""
        if name == "OnExtraDataChanged":
            change = cast(event, "IExtraDataChangedEvent")
            return str(change.machineId) if str(change.key).startswith("vmdns/") else ""
        if name.startswith(("OnMachine", "OnSnapshot", "OnNATRedirect")):
            return str(cast(event, "IMachineEvent").machineId)
        return ""

    def _is_relevant(self, change: Any) -> bool:
        name = str(change.name)
        if not name.startswith(_NET):
            return False
        if name != _NET + "Count":
            return True
        # Guest Additions rewrite the count every ten seconds. It matters where the number changed, and where reports
        # are not used yet because they are from an earlier run or from before the state was saved.
        uuid, value = str(change.machineId), str(change.value)
        changed = self._counts.get(uuid) != value
        self._counts[uuid] = value
        known = self._facts.get(f"machine:{uuid}")
        return changed or (value != "0" and isinstance(known, Machine) and not known.reports)

    def _read_again(self, uuid: str, changes: dict[str, Fact | None]) -> None:
        if uuid not in self._proxies:
            try:
                self._proxies[uuid] = self._api.vbox.findMachine(uuid)
            except Exception as error:
                self._api.check(error)
        machine = self._machine(uuid) if uuid in self._proxies else None
        if machine is None:
            self._proxies.pop(uuid, None)
        self._record(f"machine:{uuid}", machine, changes)

    def _read_periodically(self, changes: dict[str, Fact | None]) -> None:
        """Corrects what events missed: the list of VMs, all states in one call, and the state of each online VM.

        One VM a round is read whole, so that nothing stays wrong for ever.
        """
        if stamp(self._installation) != self._stamp:
            raise VirtualBoxUpgraded("it was upgraded or removed")
        self._list()
        states = self._api.vbox.getMachineStates(list(self._proxies.values()))
        for known in [one for one in self._facts if one.startswith("machine:")]:
            if known.removeprefix("machine:") not in self._proxies:
                self._record(known, None, changes)
        for uuid, state in zip(list(self._proxies), states, strict=True):
            before = self._facts.get(f"machine:{uuid}")
            if not isinstance(before, Machine) or before.state != self._api.states.get(state, ""):
                self._read_again(uuid, changes)
            elif before.online:
                self._read_state(uuid, changes)
        if self._proxies:
            self._turn += 1
            self._read_again(list(self._proxies)[self._turn % len(self._proxies)], changes)
        self._read_networks(changes)
        self._read_interfaces(changes)
        self._looked = time.monotonic()

    def _list(self) -> None:
        """Lists the VMs again if VirtualBox.xml changed: 1,000 new proxies take half a second."""
        try:
            found = os.stat(os.path.join(self.found.home, "VirtualBox.xml"))
            index = found.st_mtime_ns, found.st_size
        except OSError:
            index = None
        if index is None or index != self._index:
            self._proxies = {str(raw.id): raw for raw in self._api.array(self._api.vbox, "machines")}
            self._registered = {uuid: at for uuid, at in self._registered.items() if uuid in self._proxies}
        self._index = index

    def _read_networks(self, changes: dict[str, Fact | None]) -> None:
        self._replace("networks", read_networks(self._api), changes)

    def _read_interfaces(self, changes: dict[str, Fact | None]) -> None:
        """Reads the host-only interfaces if the set of interfaces changed; their addresses hardly ever change."""
        names = socket.if_nameindex()
        if names != self._interfaces:
            self._interfaces = names
            self._replace("interfaces", read_interfaces(self._api), changes)

    def _replace(self, what: str, found: list[Fact], changes: dict[str, Fact | None]) -> None:
        """Replaces all facts of one kind."""
        self.moved = time.monotonic()
        facts = {fact_key(fact): fact for fact in found}
        for known in self._kinds.get(what, set()) - facts.keys():
            self._record(known, None, changes)
        for name, fact in facts.items():
            self._record(name, fact, changes)
        self._kinds[what] = set(facts)

    def _record(self, name: str, fact: Fact | None, changes: dict[str, Fact | None]) -> None:
        """Keeps the fact, and adds it to the changes if it is new or different."""
        if self._facts.get(name) == fact:
            return
        if fact is None:
            del self._facts[name]
        else:
            self._facts[name] = fact
        changes[name] = fact

    def _machine(self, uuid: str) -> Machine | None:
        self.moved = time.monotonic()
        if uuid not in self._registered:
            self._registered[uuid] = next(self._next_index)
        machine = read_machine(self._api, self._proxies[uuid], uuid, self._facts.get(f"machine:{uuid}"))
        return machine and replace(machine, registration_index=self._registered[uuid])

    # -- the connection ---------------------------------------------------------------------------------------

    def _register(self) -> None:
        if self._listener is None:
            self._listener = self._source.createListener()
            self._source.registerListener(self._listener, list(self._event_names), False)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Turns errors into `VirtualBoxLost`: only a new process can connect again."""
        try:
            yield
        except VirtualBoxLost:
            raise
        except Exception as error:
            self._api.check(error)
            raise VirtualBoxLost(f"VirtualBox's API failed ({error})") from error
