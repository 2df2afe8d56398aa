"""Reads VirtualBox through its API: everything first and now and then, and each VM that an event names.

Two faults, measured on 7.2, determine the design:
- an XPCOM client whose VBoxSVC died can never connect again, so `VirtualBoxLost` ends the process;
- pyvbox's `events.register_callback` passes null events on to eventProcessed, which kills VBoxSVC. This reader has a
  passive listener of its own and drops null events (IEventSource.getEvent returns one at each timeout).

Times are those of time.perf_counter(), because time.perf_counter() of Windows has ticks longer than reading a VM takes.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from vmdns.sources.installation import Installation, stamp
from vmdns.sources.reader import UPGRADE_SECONDS, VirtualBoxInfo, VirtualBoxLost, fact_key
from vmdns.sources.settings_file import read_networks, read_registry
from vmdns.sources.virtualbox_api import (
    OBJECT_NOT_FOUND,
    Api,
    describe_error,
    read_adapter_mac,
    read_interfaces,
    read_machine,
)
from vmdns.state.facts import Fact, Machine

_NET = "/VirtualBox/GuestInfo/Net/"
_EVENTS = (
    "OnMachineStateChanged", "OnMachineDataChanged", "OnMachineRegistered", "OnMachineGroupsChanged",
    "OnExtraDataChanged", "OnGuestPropertyChanged", "OnNATRedirect", "OnSnapshotRestored", "OnNATNetworkChanged",
    "OnNATNetworkStartStop", "OnNATNetworkAlter", "OnNATNetworkCreationDeletion", "OnNATNetworkSetting",
    "OnNATNetworkPortForward",
)  # fmt: skip
_EVENT_SECONDS = 0.25  # the longest wait for an event
_EVENTS_SECONDS = 1.0  # for those that have come, so that a slow VirtualBox delays no report
_SHARE = 0.1  # of the time, for reading VMs that no event names: 20 ms each, so that 300 take a minute


class ApiReader:
    """Reads VirtualBox through its API. interval: seconds between full looks; alive is called after each VM."""

    def __init__(self, installation: Installation, interval: float, alive: Callable[[], object]) -> None:
        self._installation = installation
        self._interval = interval
        self._alive = alive
        self._api = Api(installation)
        vbox = self._api.vbox
        with self._connected():
            self.found = VirtualBoxInfo(str(vbox.version), "api", str(vbox.homeFolder))
            self._source = vbox.eventSource
        self._event_names = {self._api.events[name]: name for name in _EVENTS if name in self._api.events}
        self._stamp = stamp(installation)
        self._listener: Any = None
        self._proxies: dict[str, Any] = {}  # by UUID, in VirtualBox's order, which is that of registration
        self._indexes: dict[str, int] = {}
        self._facts: dict[str, Fact] = {}
        self._unread: dict[str, None] = {}  # VMs that the present look has not read yet
        self._counts: dict[str, str] = {}
        self._next_look = self._next_unread = float("-inf")
        self._interface_names: list[tuple[int, str]] = []
        self._interfaces: list[Fact] = []  # of the last look
        self._networks: list[Fact] = []
        self._requested = threading.Event()

    def read(self, seconds: float) -> Mapping[str, Fact]:
        with self._connected():
            first = self._listener is None
            if self._requested.is_set() or time.perf_counter() >= self._next_look:
                self._requested.clear()
                self._look()
            pause = self._next_unread - time.perf_counter() if self._unread else seconds
            wait = max(0.0, min(pause, seconds, _EVENT_SECONDS))
            uuids = changed = [*self._unread] if first else self._wait_for_events(wait)
            if not uuids and time.perf_counter() >= self._next_unread:
                uuids = list(islice(self._unread, 1))
            if uuids:
                self._facts = self._facts.copy()
            began = time.perf_counter()
            for uuid in uuids:
                self._unread.pop(uuid, None)
                self._read_machine(uuid)
            if uuids and not changed:  # events are served between the VMs of a look
                self._next_unread = began + (time.perf_counter() - began) / _SHARE
        return self._facts

    def request_look(self) -> None:
        self._requested.set()

    def close(self) -> None:
        with suppress(Exception):  # a VBoxSVC that ended has no listener any more
            if self._listener is not None:
                self._source.unregisterListener(self._listener)
        self._source = self._listener = self._api.vbox = None
        self._proxies.clear()
        self._api.manager.deinit()

    def _look(self) -> None:
        """Lists VMs and networks, and has every VM read."""
        if stamp(self._installation) != self._stamp:
            # No client may connect until the old VBoxSVC has ended.
            raise VirtualBoxLost("it was upgraded or removed", UPGRADE_SECONDS)
        if self._listener is None:  # before reading, so that no event is missed
            self._listener = self._source.createListener()
            self._source.registerListener(self._listener, list(self._event_names), False)
        self._proxies = {str(raw.id): raw for raw in self._api.array(self._api.vbox, "machines")}
        self._indexes = {uuid: at for at, uuid in enumerate(self._proxies)}
        # New ones first, then those that the last look has not read.
        order = sorted(self._proxies, key=lambda uuid: (f"machine:{uuid}" in self._facts, uuid not in self._unread))
        self._unread = dict.fromkeys(order)
        names = socket.if_nameindex()
        if names != self._interface_names:  # their addresses hardly ever change
            self._interface_names = names
            self._interfaces = [*read_interfaces(self._api)]
        facts: list[Fact] = [*self._interfaces]
        # VirtualBox.xml is never translated, and the same for both readers.
        registry = read_registry(Path(self.found.home) / "VirtualBox.xml")
        if registry is not None and registry.networks is not None:
            self._networks = [*read_networks(registry, partial(read_adapter_mac, self._api))]
        # Else VirtualBox is replacing it.
        facts += self._networks
        machines = (fact for fact in self._facts.values() if isinstance(fact, Machine) and fact.uuid in self._proxies)
        facts += (replace(machine, registration_index=self._indexes[machine.uuid]) for machine in machines)
        self._facts = {fact_key(fact): fact for fact in facts}
        self._next_look = time.perf_counter() + self._interval

    def _read_machine(self, uuid: str) -> None:
        if uuid not in self._proxies:
            return  # it is not registered any more
        machine = read_machine(self._api, self._proxies[uuid], uuid, self._known(uuid))
        self._facts.pop(f"machine:{uuid}", None)
        if machine is not None:
            self._facts[f"machine:{uuid}"] = replace(machine, registration_index=self._indexes[uuid])
        self._alive()

    def _known(self, uuid: str) -> Machine | None:
        known = self._facts.get(f"machine:{uuid}")
        return known if isinstance(known, Machine) else None

    def _wait_for_events(self, seconds: float) -> list[str]:
        """Waits for an event, and returns the VMs that must be read because of the events that have come."""
        uuids: dict[str, None] = {}
        event = self._next_event(int(seconds * 1000))
        end = time.perf_counter() + _EVENTS_SECONDS
        while event is not None:
            name = self._event_names.get(event.type, "")
            uuid = self._vm_of_event(event, name)
            if uuid:
                uuids[uuid] = None
            if "NATNetwork" in name or name == "OnMachineRegistered":
                self._requested.set()
            self._source.eventProcessed(self._listener, event)
            event = self._next_event(0) if time.perf_counter() < end else None
        return list(uuids)

    def _next_event(self, milliseconds: int) -> Any:
        try:
            return self._source.getEvent(self._listener, milliseconds)
        except Exception as error:
            if self._api.code(error) != OBJECT_NOT_FOUND:
                raise
            # VBoxSVC drops a listener that was not read for long. Everything is read again.
            self._listener = None
            self._look()
            return None

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
        if name != _NET + "Count":
            return name.startswith(_NET)
        # Guest Additions rewrite the count every ten seconds. It matters where the number changed, and where reports
        # are not used yet because they are from an earlier run or from before the state was saved.
        uuid, value = str(change.machineId), str(change.value)
        changed = self._counts.get(uuid) != value
        self._counts[uuid] = value
        known = self._known(uuid)
        return changed or (value != "0" and known is not None and not known.reports)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Turns errors into `VirtualBoxLost`: only a new process can connect again."""
        try:
            yield
        except VirtualBoxLost:
            raise
        except Exception as error:
            self._api.check(error)
            raise VirtualBoxLost(f"VirtualBox's API failed ({describe_error(error)})") from error
