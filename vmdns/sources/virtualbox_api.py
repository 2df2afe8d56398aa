"""A connection to VirtualBox's API: pyvbox makes it, everything is read raw.

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
from vmdns.sources.machine_state import state_names
from vmdns.sources.reader import Lost, Unavailable

OBJECT_NOT_FOUND = 0x80BB0001
ACCESS_DENIED = 0x80070005
_ABORT = 0x80004004  # what XPCOM proxies answer once VBoxSVC is gone


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


class Api:
    """VirtualBox's own objects, the names of its numbers, and what its errors mean.

    states and attachments name MachineState and NetworkAttachmentType by number, events has the numbers of
    VBoxEventType by name. Raises `Unavailable` where the API cannot be loaded, `Lost` where VBoxSVC does not answer.
    """

    def __init__(self, installation: Installation, environ: Mapping[str, str]) -> None:
        self.manager = connect(installation, environ)
        try:
            self.vbox = self.manager.getVirtualBox()
        except Exception as error:
            raise Lost(f"VBoxSVC does not answer ({error})") from error
        if self.vbox is None:
            raise Lost("VBoxSVC does not answer")
        values = self.manager.constants.all_values
        self.states = state_names(dict(values("MachineState")), str(self.vbox.APIVersion))
        self.attachments = {value: name for name, value in values("NetworkAttachmentType").items()}
        self.events: dict[str, int] = dict(values("VBoxEventType"))
        self.mac_wildcard: int = values("DHCPGroupConditionType").get("MACWildcard", 1)
        self.host_only: int = values("HostNetworkInterfaceType").get("HostOnly", 2)

    def array(self, raw: Any, attribute: str) -> Any:
        """An array attribute of one of VirtualBox's objects."""
        return self.manager.getArray(raw, attribute)

    def code(self, error: Exception) -> int:
        """The result code of an error of VirtualBox's; 0 for another error."""
        try:
            return int(self.manager.xcptGetStatus(error)) & 0xFFFFFFFF
        except Exception:
            return 0

    def check(self, error: Exception) -> None:
        """Raises `Lost` if the error means that VBoxSVC is gone."""
        if self.code(error) == _ABORT or self.manager.xcptIsDeadInterface(error):
            raise Lost("VBoxSVC went away") from error
