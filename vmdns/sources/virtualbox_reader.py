"""VirtualBox through its API: a full look, then a new look at each VM that an event names.

Two traps, measured on 7.2, decide the shape of this file:
- an XPCOM client whose VBoxSVC died can never connect again, so `Lost` ends the whole process;
- pyvbox's `events.register_callback` hands a null event on and kills VBoxSVC: a passive listener of our own instead,
  which never hands on a null event (IEventSource.getEvent gives one at each time-out).
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

from vmdns.sources import virtualbox_facts as read
from vmdns.sources.installation import Installation, stamp
from vmdns.sources.reader import Found, Lost, Upgraded, key
from vmdns.sources.virtualbox_api import OBJECT_NOT_FOUND, Api
from vmdns.state.facts import Fact, Machine

_NET = "/VirtualBox/GuestInfo/Net/"
_EVENTS = (
    "OnMachineStateChanged", "OnMachineDataChanged", "OnMachineRegistered", "OnExtraDataChanged",
    "OnGuestPropertyChanged", "OnNATRedirect", "OnNATNetworkChanged", "OnNATNetworkStartStop", "OnNATNetworkAlter",
    "OnNATNetworkCreationDeletion", "OnNATNetworkSetting", "OnNATNetworkPortForward", "OnSnapshotRestored",
    "OnMachineGroupsChanged", "OnHostNameResolutionConfigurationChange",
)  # fmt: skip


class ApiReader:
    """The `Reader` through the API. `moved` is the monotonic time of the last call that came back."""

    def __init__(self, installation: Installation, environ: Mapping[str, str], interval: float = 30.0) -> None:
        self._installation = installation
        self._interval = interval
        self._api = Api(installation, environ)
        vbox = self._api.vbox
        with self._connected():
            self.found = Found(str(vbox.version), "api", str(vbox.homeFolder))
            self._source = vbox.eventSource
        self._event_names = {self._api.events[name]: name for name in _EVENTS if name in self._api.events}
        self.moved = time.monotonic()
        self._stamp = stamp(installation)
        self._proxies: dict[str, Any] = {}
        self._facts: dict[str, Fact] = {}
        self._taken: dict[str, set[str]] = {}  # the keys of networks and of interfaces
        self._interfaces: list[tuple[int, str]] = []
        self._counts: dict[str, str] = {}
        self._registered: dict[str, int] = {}  # by UUID, in VirtualBox's order, which is that of registration
        self._next_index = count()
        self._due: dict[str, None] = {}  # VMs to look at, in the order of their events
        self._networks_due = self._interfaces_due = False
        self._looked = 0.0
        self._nudged = self._woken = False
        self._turn = 0
        self._index: tuple[int, int] | None = None
        self._listener: Any = None

    # -- the seam ---------------------------------------------------------------------------------------------

    def look(self) -> Mapping[str, Fact]:
        with self._connected():
            return self._look()

    def wait(self, seconds: float) -> Mapping[str, Fact | None]:
        with self._connected():
            return self._wait(time.monotonic() + seconds)

    def nudge(self) -> None:
        self._nudged = True

    def wake(self) -> None:
        self._woken = self._nudged = True

    def close(self) -> None:
        with suppress(Exception):  # where VBoxSVC is gone it forgot the listener with itself
            if self._listener is not None:
                self._source.unregisterListener(self._listener)
        self._source = self._listener = self._api.vbox = None
        self._proxies.clear()
        self._api.manager.deinit()

    # -- looking ----------------------------------------------------------------------------------------------

    def _look(self) -> Mapping[str, Fact]:
        self._register()  # before the look, so that nothing falls between the look and the first event
        self._facts = {}
        self._look_at_networks({})
        self._list()
        for uuid in list(self._proxies):
            machine = self._machine(uuid)
            if machine is not None:
                self._facts[key(machine)] = machine
        self._looked = time.monotonic()
        self._interfaces_due = True
        return dict(self._facts)

    def _wait(self, until: float) -> Mapping[str, Fact | None]:
        while True:
            changes = self._look_at_due() or self._collect(max(0.0, min(until - time.monotonic(), 1.0)))
            if self._nudged:
                self._nudged = False
                self._networks_due = True
            if self._woken or time.monotonic() - self._looked >= self._interval:
                self._woken = False
                self._slow_look(changes)
            if changes or time.monotonic() >= until:
                return changes

    def _collect(self, seconds: float) -> dict[str, Fact | None]:
        """Waits for events, and looks again at what they name."""
        changes: dict[str, Fact | None] = {}
        event = self._event(int(seconds * 1000))
        uuids: dict[str, None] = {}
        networks = False
        for _ in range(500):
            if event is None:
                break
            name = self._event_names.get(event.type, "")
            uuid = self._named(event, name)
            if uuid:
                uuids[uuid] = None
            networks = networks or "NATNetwork" in name or name.startswith("OnHost")
            self._source.eventProcessed(self._listener, event)
            event = self._event(0)
        for uuid in uuids:
            self._glance(uuid, changes)
        self._due.update(uuids)
        self._networks_due = self._networks_due or networks
        return changes

    def _glance(self, uuid: str, changes: dict[str, Fact | None]) -> None:
        """What addresses depend on most, in two calls: it is told at once, and the whole VM looked at after it."""
        before = self._facts.get(f"machine:{uuid}")
        raw = self._proxies.get(uuid)
        if raw is None or not isinstance(before, Machine) or not before.accessible:
            return
        try:
            now = read.current(self._api, raw, before)
            if before.online or not now.online:  # of one that comes online the adapters are still to be read
                self._note(f"machine:{uuid}", now, changes)
        except Exception as error:
            self._api.check(error)

    def _look_at_due(self) -> dict[str, Fact | None]:
        changes: dict[str, Fact | None] = {}
        due, self._due = self._due, {}
        for uuid in due:
            self._look_again(uuid, changes)
        if self._networks_due:
            self._networks_due = False
            self._look_at_networks(changes)
        if self._interfaces_due:
            self._interfaces_due = False
            self._look_at_interfaces(changes)
        return changes

    def _event(self, milliseconds: int) -> Any:
        try:
            event = self._source.getEvent(self._listener, milliseconds)
        except Exception as error:
            if self._api.code(error) != OBJECT_NOT_FOUND:
                raise
            # VBoxSVC drops a listener that was not read for long; what it would have said is read again.
            self._listener = None
            self._register()
            self._looked = -self._interval
            return None
        self.moved = time.monotonic()
        return event

    def _named(self, event: Any, name: str) -> str:
        """The UUID of the VM that this event tells us to look at; '' for none."""
        cast = self._api.manager.queryInterface
        if name == "OnGuestPropertyChanged":
            change = cast(event, "IGuestPropertyChangedEvent")
            return str(change.machineId) if self._matters(change) else ""
        if name == "OnExtraDataChanged":
            change = cast(event, "IExtraDataChangedEvent")
            return str(change.machineId) if str(change.key).startswith("vmdns/") else ""
        if name.startswith(("OnMachine", "OnSnapshot", "OnNATRedirect")):
            return str(cast(event, "IMachineEvent").machineId)
        return ""

    def _matters(self, change: Any) -> bool:
        name = str(change.name)
        if not name.startswith(_NET):
            return False
        if name != _NET + "Count":
            return True
        # Guest Additions rewrite the count every ten seconds as a sign of life. It is news where the number is another
        # one, or where the reports of an earlier run, or of before the state was saved, are not used until then.
        uuid, value = str(change.machineId), str(change.value)
        fresh = self._counts.get(uuid) != value
        self._counts[uuid] = value
        known = self._facts.get(f"machine:{uuid}")
        return fresh or (value != "0" and isinstance(known, Machine) and not known.reports)

    def _look_again(self, uuid: str, changes: dict[str, Fact | None]) -> None:
        if uuid not in self._proxies:
            try:
                self._proxies[uuid] = self._api.vbox.findMachine(uuid)
            except Exception as error:
                self._api.check(error)
        machine = self._machine(uuid) if uuid in self._proxies else None
        if machine is None:
            self._proxies.pop(uuid, None)
        self._note(f"machine:{uuid}", machine, changes)

    def _slow_look(self, changes: dict[str, Fact | None]) -> None:
        """Corrects what events missed: which VMs there are, their states in one call, a glance at the online ones.

        One VM a time is looked at whole, so that nothing that was missed stays so for ever.
        """
        if stamp(self._installation) != self._stamp:
            raise Upgraded("it was upgraded or removed")
        self._list()
        states = self._api.vbox.getMachineStates(list(self._proxies.values()))
        for known in [one for one in self._facts if one.startswith("machine:")]:
            if known.removeprefix("machine:") not in self._proxies:
                self._note(known, None, changes)
        for uuid, state in zip(list(self._proxies), states, strict=True):
            before = self._facts.get(f"machine:{uuid}")
            if not isinstance(before, Machine) or before.state != self._api.states.get(state, ""):
                self._look_again(uuid, changes)
            elif before.online:
                self._glance(uuid, changes)
        if self._proxies:
            self._turn += 1
            self._look_again(list(self._proxies)[self._turn % len(self._proxies)], changes)
        self._look_at_networks(changes)
        self._look_at_interfaces(changes)
        self._looked = time.monotonic()

    def _list(self) -> None:
        """Which VMs there are, asked again only when VirtualBox.xml says so: 1,000 fresh proxies cost half a second."""
        try:
            found = os.stat(os.path.join(self.found.home, "VirtualBox.xml"))
            index = found.st_mtime_ns, found.st_size
        except OSError:
            index = None
        if index is None or index != self._index:
            self._proxies = {str(raw.id): raw for raw in self._api.array(self._api.vbox, "machines")}
            self._registered = {uuid: at for uuid, at in self._registered.items() if uuid in self._proxies}
        self._index = index

    def _look_at_networks(self, changes: dict[str, Fact | None]) -> None:
        self._take("networks", read.networks(self._api), changes)

    def _look_at_interfaces(self, changes: dict[str, Fact | None]) -> None:
        """Asks for the host's interfaces where there are others than before; their addresses hardly ever change."""
        names = socket.if_nameindex()
        if names != self._interfaces:
            self._interfaces = names
            self._take("interfaces", read.interfaces(self._api), changes)

    def _take(self, what: str, found: list[Fact], changes: dict[str, Fact | None]) -> None:
        """Takes over everything there is of one kind."""
        self.moved = time.monotonic()
        facts = {key(fact): fact for fact in found}
        for known in self._taken.get(what, set()) - facts.keys():
            self._note(known, None, changes)
        for name, fact in facts.items():
            self._note(name, fact, changes)
        self._taken[what] = set(facts)

    def _note(self, name: str, fact: Fact | None, changes: dict[str, Fact | None]) -> None:
        """Takes the fact over, and down as a change if it is one."""
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
        machine = read.machine(self._api, self._proxies[uuid], uuid, self._facts.get(f"machine:{uuid}"))
        return machine and replace(machine, registration_index=self._registered[uuid])

    # -- the connection ---------------------------------------------------------------------------------------

    def _register(self) -> None:
        if self._listener is None:
            self._listener = self._source.createListener()
            self._source.registerListener(self._listener, list(self._event_names), False)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        """Whatever fails here past the single VM means that only a fresh process can go on."""
        try:
            yield
        except Lost:
            raise
        except Exception as error:
            self._api.check(error)
            raise Lost(f"VirtualBox's API failed ({error})") from error
