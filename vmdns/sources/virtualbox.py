"""VirtualBox through its API: pyvbox makes the connection, everything is read raw.

Four traps, all measured on 7.2, decide the shape of this file:
- an XPCOM client whose VBoxSVC died can never connect again, so `Lost` ends the whole process;
- pyvbox's `events.register_callback` hands a null event on and kills VBoxSVC: a passive listener of our own instead;
- pyvbox's enums are those of API 6.1: values are read raw and named by the running version's own constants;
- `vboxapi` may come from the VBox SDK package, which needs two environment variables before its import.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from ipaddress import IPv4Interface
from typing import Any

from vmdns.core.extradata import IGNORE, NAMES, extra_names, truthy
from vmdns.core.guestinfo import PATTERN, reports
from vmdns.core.model import Adapter, DhcpServer, Fact, HostInterface, Machine, NatNetwork, Network, PortForward
from vmdns.sources.installation import Installation, stamp
from vmdns.sources.machinestate import state_names
from vmdns.sources.reader import Found, Lost, Unavailable, Upgraded, key

_NET = "/VirtualBox/GuestInfo/Net/"
_EVENTS = (
    "OnMachineStateChanged", "OnMachineDataChanged", "OnMachineRegistered", "OnExtraDataChanged",
    "OnGuestPropertyChanged", "OnNATRedirect", "OnNATNetworkChanged", "OnNATNetworkStartStop", "OnNATNetworkAlter",
    "OnNATNetworkCreationDeletion", "OnNATNetworkSetting", "OnNATNetworkPortForward", "OnSnapshotRestored",
    "OnMachineGroupsChanged", "OnHostNameResolutionConfigurationChange",
)  # fmt: skip
_OBJECT_NOT_FOUND = 0x80BB0001
_ACCESS_DENIED = 0x80070005
_ABORT = 0x80004004  # what XPCOM proxies answer once VBoxSVC is gone
_MAX_ADAPTERS = 36  # of the ICH9 chipset; PIIX3 has 8
_KINDS = {
    "NAT": "nat", "Bridged": "bridged", "Internal": "intnet", "HostOnly": "hostonly", "Generic": "generic",
    "NATNetwork": "natnetwork", "Cloud": "cloud", "HostOnlyNetwork": "hostonlynetwork",
}  # fmt: skip
_NAMES = {
    "natnetwork": "NATNetwork", "bridged": "bridgedInterface", "intnet": "internalNetwork",
    "hostonly": "hostOnlyInterface", "generic": "genericDriver", "hostonlynetwork": "hostOnlyNetwork",
}  # fmt: skip


def connect(installation: Installation, environ: Mapping[str, str]) -> Any:
    """The vboxapi manager of a fresh connection. Raises `Unavailable` where pyvbox or vboxapi cannot load."""
    os.environ.setdefault("VBOX_PROGRAM_PATH", str(installation.program))
    if installation.sdk is not None:
        os.environ.setdefault("VBOX_SDK_PATH", str(installation.sdk))
    try:
        if installation.vboxapi is not None and "vboxapi" not in sys.modules:
            _load_package("vboxapi", installation.vboxapi)
        pyvbox = importlib.import_module("virtualbox")
        return pyvbox.Manager().manager
    except ImportError as error:
        raise Unavailable(f"the VirtualBox API cannot be loaded ({error})") from error
    except Exception as error:
        raise Lost(f"its API does not start ({error})") from error


def _load_package(name: str, folder: os.PathLike[str]) -> None:
    """Imports one package from a folder without opening the rest of that folder to imports."""
    path = os.path.join(folder, name, "__init__.py")
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[os.path.dirname(path)])
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception:
        del sys.modules[name]


class ApiReader:
    """The `Reader` through the API. `moved` is the monotonic time of the last call that came back."""

    def __init__(self, installation: Installation, environ: Mapping[str, str], interval: float = 30.0) -> None:
        self._installation = installation
        self._interval = interval
        self._manager = connect(installation, environ)
        try:
            self._vbox = self._manager.getVirtualBox()
        except Exception as error:
            raise Lost(f"VBoxSVC does not answer ({error})") from error
        if self._vbox is None:
            raise Lost("VBoxSVC does not answer")
        self.moved = time.monotonic()
        with self._connected():
            self._read_constants()
            self.found = Found(str(self._vbox.version), "api", str(self._vbox.homeFolder))
            self._source = self._vbox.eventSource
        self._stamp = stamp(installation)
        self._proxies: dict[str, Any] = {}
        self._facts: dict[str, Fact] = {}
        self._network_keys: set[str] = set()
        self._counts: dict[str, str] = {}
        self._due: dict[str, None] = {}  # VMs to look at, in the order of their events
        self._networks_due = False
        self._looked = 0.0
        self._nudged = False
        self._listener: Any = None

    def _read_constants(self) -> None:
        version = str(self._vbox.APIVersion)
        constants = self._manager.constants
        self._states = state_names(dict(constants.all_values("MachineState")), version)
        self._kinds = {value: name for name, value in constants.all_values("NetworkAttachmentType").items()}
        events = dict(constants.all_values("VBoxEventType"))
        self._event_names = {events[name]: name for name in _EVENTS if name in events}
        self._host_only = constants.all_values("HostNetworkInterfaceType").get("HostOnly", 2)

    # -- the seam ---------------------------------------------------------------------------------------------

    def look(self) -> Mapping[str, Fact]:
        with self._connected():
            return self._look()

    def wait(self, seconds: float) -> Mapping[str, Fact | None]:
        with self._connected():
            return self._wait(time.monotonic() + seconds)

    def nudge(self) -> None:
        self._nudged = True

    def close(self) -> None:
        with suppress(Exception):  # where VBoxSVC is gone it forgot the listener with itself
            if self._listener is not None:
                self._source.unregisterListener(self._listener)
        self._vbox = self._source = self._listener = None
        self._proxies.clear()
        self._manager.deinit()

    # -- looking ----------------------------------------------------------------------------------------------

    def _look(self) -> Mapping[str, Fact]:
        self._register()  # before the look, so that nothing falls between the look and the first event
        facts: dict[str, Fact] = dict(self._networks())
        self._network_keys = set(facts)
        self._proxies = {str(raw.id): raw for raw in self._manager.getArray(self._vbox, "machines")}
        for uuid in self._proxies:
            machine = self._machine(uuid)
            if machine is not None:
                facts[key(machine)] = machine
        self._looked = time.monotonic()
        self._facts = facts
        return dict(facts)

    def _wait(self, until: float) -> Mapping[str, Fact | None]:
        while True:
            changes = self._look_at_due() or self._collect(max(0.0, min(until - time.monotonic(), 1.0)))
            if self._nudged:
                self._nudged = False
                self._networks_due = True
            if time.monotonic() - self._looked >= self._interval:
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
            now = replace(before, state=self._states.get(raw.state, ""), reports=())
            self._note(f"machine:{uuid}", self._with_reports(raw, now), changes)
        except Exception as error:
            self._dead(error)

    def _look_at_due(self) -> dict[str, Fact | None]:
        changes: dict[str, Fact | None] = {}
        due, self._due = self._due, {}
        for uuid in due:
            self._look_again(uuid, changes)
        if self._networks_due:
            self._networks_due = False
            self._look_at_networks(changes)
        return changes

    def _event(self, milliseconds: int) -> Any:
        try:
            event = self._source.getEvent(self._listener, milliseconds)
        except Exception as error:
            if self._code(error) != _OBJECT_NOT_FOUND:
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
        cast = self._manager.queryInterface
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
        # Guest Additions rewrite the count every ten seconds as a sign of life; only another number is news.
        uuid, value = str(change.machineId), str(change.value)
        fresh = self._counts.get(uuid) != value
        self._counts[uuid] = value
        return fresh

    def _look_again(self, uuid: str, changes: dict[str, Fact | None]) -> None:
        if uuid not in self._proxies:
            try:
                self._proxies[uuid] = self._vbox.findMachine(uuid)
            except Exception as error:
                self._dead(error)
        machine = self._machine(uuid) if uuid in self._proxies else None
        self._note(f"machine:{uuid}", machine, changes)

    def _slow_look(self, changes: dict[str, Fact | None]) -> None:
        """Corrects what events missed: which VMs there are, their states in one call, and the online ones whole."""
        if stamp(self._installation) != self._stamp:
            raise Upgraded("it was upgraded or removed")
        raws = self._manager.getArray(self._vbox, "machines")
        states = self._vbox.getMachineStates(raws)
        self._proxies = {str(raw.id): raw for raw in raws}
        for known in [one for one in self._facts if one.startswith("machine:")]:
            if known.removeprefix("machine:") not in self._proxies:
                self._note(known, None, changes)
        for uuid, state in zip(list(self._proxies), states, strict=True):
            before = self._facts.get(f"machine:{uuid}")
            same = isinstance(before, Machine) and before.state == self._states.get(state, "")
            if not same or (isinstance(before, Machine) and before.online):
                self._look_again(uuid, changes)
        self._look_at_networks(changes)
        self._looked = time.monotonic()

    def _look_at_networks(self, changes: dict[str, Fact | None]) -> None:
        found = self._networks()
        for known in self._network_keys - found.keys():
            self._note(known, None, changes)
        for name, fact in found.items():
            self._note(name, fact, changes)
        self._network_keys = set(found)

    def _note(self, name: str, fact: Fact | None, changes: dict[str, Fact | None]) -> None:
        """Takes the fact over, and down as a change if it is one."""
        if self._facts.get(name) == fact:
            return
        if fact is None:
            del self._facts[name]
        else:
            self._facts[name] = fact
        changes[name] = fact

    # -- reading ----------------------------------------------------------------------------------------------

    def _machine(self, uuid: str) -> Machine | None:
        """The VM as it is now, None where it is gone; as it was where it cannot be read just now."""
        raw = self._proxies[uuid]
        try:
            self.moved = time.monotonic()
            if not raw.accessible:
                return Machine(uuid, "", accessible=False)
            state = self._states.get(raw.state, "")
            machine = Machine(
                uuid=uuid,
                name=str(raw.name),
                state=state,
                groups=tuple(str(group) for group in self._manager.getArray(raw, "groups")),
                adapters=tuple(self._adapters(raw)),
                names=extra_names(str(raw.getExtraData(NAMES))),
                ignored=truthy(str(raw.getExtraData(IGNORE))),
            )
            return self._with_reports(raw, machine)
        except Exception as error:
            self._dead(error)
            if self._code(error) == _OBJECT_NOT_FOUND:
                self._proxies.pop(uuid, None)
                return None
            if self._code(error) == _ACCESS_DENIED:
                return Machine(uuid, "", accessible=False)
            before = self._facts.get(f"machine:{uuid}")
            return before if isinstance(before, Machine) else None

    def _with_reports(self, raw: Any, machine: Machine) -> Machine:
        if not machine.online:
            return machine
        names, values, stamps, _flags = raw.enumerateGuestProperties(PATTERN)
        told = {str(n): (str(v), int(t) / 1e9) for n, v, t in zip(names, values, stamps, strict=True)}
        return replace(machine, reports=reports(told))

    def _adapters(self, raw: Any) -> Iterable[Adapter]:
        for slot in range(_MAX_ADAPTERS):
            try:
                adapter = raw.getNetworkAdapter(slot)
            except Exception as error:
                self._dead(error)
                return  # the chipset has no more of them
            if not adapter.enabled:
                continue
            attachment = self._kinds.get(adapter.attachmentType, "Null")
            kind = _KINDS.get(attachment, "null")
            attribute = _NAMES.get(kind)
            forwards: tuple[PortForward, ...] = ()
            if kind == "nat":
                rules = self._manager.getArray(adapter.NATEngine, "redirects")
                forwards = tuple(sorted(_each(rules, _redirect), key=_rule_order))
            yield Adapter(
                slot=slot,
                mac=str(adapter.MACAddress).lower(),
                network=Network(kind, str(getattr(adapter, attribute)) if attribute else ""),
                cable=bool(adapter.cableConnected),
                forwards=forwards,
            )

    def _networks(self) -> dict[str, Fact]:
        facts: list[Fact] = []
        array = self._manager.getArray
        for raw in array(self._vbox, "NATNetworks"):
            rules = tuple(sorted(_each(array(raw, "portForwardRules4"), _rule), key=_rule_order))
            facts.append(NatNetwork(str(raw.networkName), str(raw.network), bool(raw.enabled), rules))
        for raw in array(self._vbox, "DHCPServers"):
            pairs = (
                (str(one.MACAddress).replace(":", "").lower(), str(one.fixedAddress))
                for one in array(raw, "individualConfigs")
            )
            fixed = tuple(sorted({pair for pair in pairs if all(pair)}))
            facts.append(
                DhcpServer(str(raw.networkName), str(raw.IPAddress), str(raw.networkMask), bool(raw.enabled), fixed)
            )
        for raw in array(self._vbox.host, "networkInterfaces"):
            if raw.interfaceType == self._host_only and raw.IPAddress:
                facts.append(HostInterface(str(raw.name), _prefix(str(raw.IPAddress), str(raw.networkMask))))
        self.moved = time.monotonic()
        return {key(fact): fact for fact in facts}

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
            self._dead(error)
            raise Lost(f"VirtualBox's API failed ({error})") from error

    def _code(self, error: Exception) -> int:
        try:
            return int(self._manager.xcptGetStatus(error)) & 0xFFFFFFFF
        except Exception:
            return 0  # no error of VirtualBox's

    def _dead(self, error: Exception) -> None:
        """Raises `Lost` if the error means that VBoxSVC is gone."""
        if self._code(error) == _ABORT or self._manager.xcptIsDeadInterface(error):
            raise Lost("VBoxSVC went away") from error


def _redirect(text: str) -> PortForward:
    """A rule of `INATEngine.redirects`: name,protocol (0 udp, 1 tcp),host address,its port,guest address,its port."""
    name, protocol, host, host_port, guest, guest_port = text.rsplit(",", 5)
    return PortForward(name, "tcp" if protocol == "1" else "udp", host, int(host_port), guest, int(guest_port))


_RULE = re.compile(r"(.*):(tcp|udp):\[(.*?)\]:(\d+):\[(.*?)\]:(\d+)", re.DOTALL)


def _rule(text: str) -> PortForward:
    """A rule of `INATNetwork.portForwardRules4`: name:protocol:[host address]:host port:[guest address]:guest port."""
    match = _RULE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    name, protocol, host, host_port, guest, guest_port = match.groups()
    return PortForward(name, protocol, host, int(host_port), guest, int(guest_port))


def _each(rules: Iterable[Any], parse: Callable[[str], PortForward]) -> Iterator[PortForward]:
    for rule in rules:
        with suppress(ValueError):  # a rule of a form that this version does not know is left out
            yield parse(str(rule))


def _rule_order(rule: PortForward) -> tuple[str, int, str, str]:
    return rule.protocol, rule.host_port, rule.host_address, rule.name


def _prefix(address: str, mask: str) -> str:
    return IPv4Interface(f"{address}/{mask}").with_prefixlen
