"""The connection to VirtualBox's API. pyvbox opens it; objects are read without pyvbox's wrappers.

`vboxapi` is that of the installation where it can be imported, else that of the vbox-sdk package, which needs two
environment variables before its import. Values are named by the running version's own constants: pyvbox's enums
are those of API 6.1.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Any

from vmdns.sources.installation import Installation
from vmdns.sources.reader import ReaderUnavailable, VirtualBoxLost

OBJECT_NOT_FOUND = 0x80BB0001
ACCESS_DENIED = 0x80070005
_ABORT = 0x80004004  # from XPCOM proxies once VBoxSVC has ended


def connect(installation: Installation, environ: Mapping[str, str]) -> Any:
    """The vboxapi manager of a new connection. Raises `ReaderUnavailable` where pyvbox or vboxapi cannot load."""
    os.environ.setdefault("VBOX_PROGRAM_PATH", str(installation.program))
    if installation.sdk is not None:
        os.environ.setdefault("VBOX_SDK_PATH", str(installation.sdk))
    try:
        if installation.vboxapi is not None and "vboxapi" not in sys.modules:
            _load_package("vboxapi", installation.vboxapi)
        pyvbox = importlib.import_module("virtualbox")
        return pyvbox.Manager().manager
    except ImportError as error:
        raise ReaderUnavailable(f"the VirtualBox API cannot be loaded ({error})") from error
    except Exception as error:
        raise VirtualBoxLost(f"its API does not start ({error})") from error


def _load_package(name: str, folder: os.PathLike[str]) -> None:
    """Imports one package from a folder without adding the folder to sys.path."""
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


class Api:
    """VirtualBox's root objects, the names of its constants, and the meaning of its errors.

    states and attachments name MachineState and NetworkAttachmentType by number, events has the numbers of
    VBoxEventType by name. Raises `ReaderUnavailable` where the API cannot be loaded, `VirtualBoxLost` where VBoxSVC
    does not answer.
    """

    def __init__(self, installation: Installation, environ: Mapping[str, str]) -> None:
        self.manager = connect(installation, environ)
        try:
            self.vbox = self.manager.getVirtualBox()
        except Exception as error:
            raise VirtualBoxLost(f"VBoxSVC does not answer ({error})") from error
        if self.vbox is None:
            raise VirtualBoxLost("VBoxSVC does not answer")
        values = self.manager.constants.all_values
        self.states = name_states(dict(values("MachineState")), str(self.vbox.APIVersion))
        self.attachments = {value: name for name, value in values("NetworkAttachmentType").items()}
        self.events: dict[str, int] = dict(values("VBoxEventType"))
        self.mac_wildcard: int = values("DHCPGroupConditionType").get("MACWildcard", 1)
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
