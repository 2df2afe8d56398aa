"""VirtualBox's API: the connection, and its objects as facts. pyvbox only opens the connection.

`vboxapi` is that of the installation where it can be imported, else that of the vbox-sdk package, which needs two
environment variables before its import. Values are named by the running version's own constants: pyvbox's enums
are those of API 6.1.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Interface
from typing import Any

from vmdns.sources.installation import Installation
from vmdns.sources.reader import ReaderUnavailable, VirtualBoxLost
from vmdns.sources.virtualbox_values import (
    EXTRA_KEYS,
    GUEST_PROPERTIES,
    parse_extra,
    parse_guest_reports,
    parse_nat_rule,
    rule_sort_key,
)
from vmdns.state.facts import Adapter, HostInterface, Machine, Network

OBJECT_NOT_FOUND = 0x80BB0001
_ACCESS_DENIED = 0x80070005
_EXCEPTION = 0x80020009  # DISP_E_EXCEPTION of COM
_ABORT = 0x80004004  # from XPCOM proxies once VBoxSVC has ended
# Of COM (winerror.h): VirtualBox's classes or type library are not registered, or are another version's. That stays.
_NOT_REGISTERED = {
    0x80004002: "E_NOINTERFACE", 0x8002801C: "TYPE_E_REGISTRYACCESS", 0x8002801D: "TYPE_E_LIBNOTREGISTERED",
    0x80029C4A: "TYPE_E_CANTLOADLIBRARY", 0x80040111: "CLASS_E_CLASSNOTAVAILABLE", 0x80040154: "REGDB_E_CLASSNOTREG",
    0x80040155: "REGDB_E_IIDNOTREG", 0x800401F3: "CO_E_CLASSSTRING", 0x800401F8: "CO_E_DLLNOTFOUND",
    0x800401F9: "CO_E_ERRORINDLL",
}  # fmt: skip
_MAX_ADAPTERS = 36  # of the ICH9 chipset; PIIX3 has 8
# NetworkAttachmentType -> the kind of network, and the adapter's attribute with its name.
_KINDS = {
    "NAT": ("nat", ""), "NATNetwork": ("natnetwork", "NATNetwork"), "Bridged": ("bridged", "bridgedInterface"),
    "Internal": ("intnet", "internalNetwork"), "HostOnly": ("hostonly", "hostOnlyInterface"),
    "HostOnlyNetwork": ("hostonly", "hostOnlyNetwork"), "Generic": ("generic", "genericDriver"),
    "Cloud": ("cloud", ""),
}  # fmt: skip


def connect(installation: Installation) -> Any:
    """The vboxapi manager of a new connection. Raises `ReaderUnavailable` where pyvbox or vboxapi cannot load, or where
    VirtualBox is not registered with COM; `VirtualBoxLost` where its API does not start."""
    os.environ.setdefault("VBOX_PROGRAM_PATH", str(installation.program))
    if installation.sdk is not None:
        os.environ.setdefault("VBOX_SDK_PATH", str(installation.sdk))
    try:
        if installation.vboxapi is not None:
            # The folder may be that of all packages of another Python, so it is searched for this one only.
            sys.path.insert(0, str(installation.vboxapi))
            try:
                with suppress(Exception):  # pyvbox tries the one of the vbox-sdk package
                    importlib.import_module("vboxapi")
            finally:
                sys.path.remove(str(installation.vboxapi))
        return importlib.import_module("virtualbox").Manager().manager
    except ImportError as error:
        raise ReaderUnavailable(f"the VirtualBox API cannot be loaded ({error})") from error
    except Exception as error:
        raise _connection_error(error, "its API does not start") from error


def _connection_error(error: Exception, what: str) -> ReaderUnavailable | VirtualBoxLost:
    """The error to raise instead."""
    code = getattr(error, "hresult", 0) & 0xFFFFFFFF
    if name := _NOT_REGISTERED.get(code):
        return ReaderUnavailable(f"Windows does not know its API ({name}); VirtualBox's installer repairs that")
    if code == _ACCESS_DENIED:
        return VirtualBoxLost(f"{what} (E_ACCESSDENIED): VirtualBox runs as administrator or as another user")
    return VirtualBoxLost(f"{what} ({describe_error(error)})")


def describe_error(error: Exception) -> str:
    """The text of an error; its code where it is one of COM on Windows, whose texts are translated."""
    code, details = getattr(error, "hresult", 0), getattr(error, "excepinfo", None)
    if code & 0xFFFFFFFF == _EXCEPTION and details:  # the code is that of the called object
        code = details[5]
    return f"0x{code & 0xFFFFFFFF:08x}" if code else str(error)


class Api:
    """VirtualBox's root objects, the names of its constants, and the meaning of its errors.

    states and attachments name MachineState and NetworkAttachmentType by number, events has the numbers of
    VBoxEventType by name. Raises `ReaderUnavailable` where the API cannot be loaded, `VirtualBoxLost` where VBoxSVC
    does not answer.
    """

    def __init__(self, installation: Installation) -> None:
        self.manager = connect(installation)
        try:
            self.vbox = self.manager.getVirtualBox()
        except Exception as error:
            raise _connection_error(error, "VBoxSVC does not answer") from error
        if self.vbox is None:
            raise VirtualBoxLost("VBoxSVC does not answer")
        values = self.manager.constants.all_values
        self.states = name_states(dict(values("MachineState")), str(self.vbox.APIVersion))
        self.attachments = {value: name for name, value in values("NetworkAttachmentType").items()}
        self.events: dict[str, int] = dict(values("VBoxEventType"))
        self.host_only: int = values("HostNetworkInterfaceType").get("HostOnly", 2)

    def array(self, raw: Any, attribute: str) -> Any:
        """An array attribute of one of VirtualBox's objects."""
        return self.manager.getArray(raw, attribute)

    def code(self, error: Exception) -> int:
        """The result code of a VirtualBox error; 0 for any other error."""
        try:
            return int(self.manager.xcptGetStatus(error)) & 0xFFFFFFFF
        except Exception:
            return 0

    def check(self, error: Exception) -> None:
        """Raises `VirtualBoxLost` if the error means that VBoxSVC has ended."""
        if self.code(error) == _ABORT or self.manager.xcptIsDeadInterface(error):
            raise VirtualBoxLost("VBoxSVC ended") from error


# MachineState of VirtualBox 6.1 (SDK reference). 7.0 inserted AbortedSaved at 5, which moved all that follow.
_V6 = (
    "Null", "PoweredOff", "Saved", "Teleported", "Aborted", "Running", "Paused", "Stuck", "Teleporting",
    "LiveSnapshotting", "Starting", "Stopping", "Saving", "Restoring", "TeleportingPausedVM", "TeleportingIn",
    "DeletingSnapshotOnline", "DeletingSnapshotPaused", "OnlineSnapshotting", "RestoringSnapshot",
    "DeletingSnapshot", "SettingUp", "Snapshotting",
)  # fmt: skip


def name_states(constants: Mapping[str, int], api_version: str) -> dict[int, str]:
    """Names of the states by number, for an API version such as `7_2`.

    constants are those of the vboxapi at hand. They are the running version's own where vboxapi comes from the
    installation; the one of the vbox-sdk package may be newer than VirtualBox, which its number of Running shows.
    """
    old = api_version.partition("_")[0] in ("4", "5", "6")
    if constants.get("Running") != (5 if old else 6):
        names = _V6 if old else (*_V6[:5], "AbortedSaved", *_V6[5:])
        return dict(enumerate(names))
    return {value: name for name, value in constants.items() if not name.startswith(("First", "Last"))}


def read_machine(api: Api, raw: Any, uuid: str, before: Machine | None) -> Machine | None:
    """Reads a VM: None where it no longer exists, `before` where it cannot be read now. Raises `VirtualBoxLost`.

    Adapters take half of the calls, so they are read for online VMs only.
    """
    try:
        extra = set(raw.getExtraDataKeys())
        found = Machine(
            uuid=uuid,
            name=str(raw.name),
            state=api.states.get(raw.state, ""),
            groups=tuple(str(group) for group in api.array(raw, "groups")),
            state_changed=float(int(raw.lastStateChange) // 1000),  # VirtualBox gives milliseconds
            **parse_extra({key: str(raw.getExtraData(key)) for key in EXTRA_KEYS if key in extra})._asdict(),
        )
        if not found.online:
            return found
        names, values, stamps, _flags = raw.enumerateGuestProperties(GUEST_PROPERTIES)
        properties = {str(n): (str(v), int(t) / 1e9) for n, v, t in zip(names, values, stamps, strict=True)}
        reports = parse_guest_reports(properties, found.state)
        return replace(found, adapters=tuple(_adapters(api, raw)), reports=reports)
    except Exception as error:
        api.check(error)
        if api.code(error) == OBJECT_NOT_FOUND:
            return None
        return Machine(uuid, "", accessible=False) if api.code(error) == _ACCESS_DENIED else before


def _adapters(api: Api, raw: Any) -> Iterator[Adapter]:
    for slot in range(_MAX_ADAPTERS):
        try:
            adapter = raw.getNetworkAdapter(slot)
        except Exception as error:
            api.check(error)
            return  # the chipset has no more of them
        if not adapter.enabled:
            continue
        kind, attribute = _KINDS.get(api.attachments.get(adapter.attachmentType, "Null"), ("null", ""))
        forwards = []
        for text in api.array(adapter.NATEngine, "redirects") if kind == "nat" else ():
            with suppress(ValueError):  # rules in an unknown form are left out
                forwards.append(parse_nat_rule(str(text)))
        yield Adapter(
            slot=slot,
            mac=str(adapter.MACAddress).lower(),
            network=Network(kind, str(getattr(adapter, attribute)) if attribute else ""),
            cable=bool(adapter.cableConnected),
            forwards=tuple(sorted(forwards, key=rule_sort_key)),
        )


def read_adapter_mac(api: Api, vm: str, slot: int) -> str:
    """The MAC of an adapter of a VM, by its name or UUID; '' where there is none or it is disabled."""
    try:
        adapter = api.vbox.findMachine(vm).getNetworkAdapter(slot)
        return str(adapter.MACAddress).lower() if adapter.enabled else ""
    except Exception as error:
        api.check(error)
        return ""


def read_interfaces(api: Api) -> Iterator[HostInterface]:
    """Reads the host's addresses on host-only interfaces. Takes VBoxSVC a tenth of a second."""
    for raw in api.array(api.vbox.host, "networkInterfaces"):
        if raw.interfaceType == api.host_only and raw.IPAddress:
            yield HostInterface(str(raw.name), IPv4Interface(f"{raw.IPAddress}/{raw.networkMask}").with_prefixlen)
