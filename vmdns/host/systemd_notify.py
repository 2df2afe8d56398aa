"""What a service receives from systemd: the notification socket (sd_notify(3)) and its capabilities (capabilities(7)).

Without them, nothing is done.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping
from pathlib import Path

from vmdns.dns.escape import escape_text

_PR_CAP_AMBIENT, _CLEAR_ALL = 47, 4  # linux/prctl.h


class ServiceNotifier:
    """The socket of the service manager. The variables are removed from the environment, so that children do not notify
    it. seconds is the watchdog interval (sd_watchdog_enabled(3)), 0 for none."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        micros, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        if not hasattr(socket, "AF_UNIX") or address[:1] not in ("/", "@"):
            address = ""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watched = address and micros.isdecimal() and pid in ("", str(os.getpid()))
        self.seconds = int(micros) / 1e6 if watched else 0.0

    def ready(self, status: str) -> None:
        """Reports that vmdns answers queries; status is a line for the user."""
        self._send(f"READY=1\nSTATUS={escape_text(status)}")

    def alive(self) -> None:
        """Reports that vmdns still answers."""
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        """Reports that vmdns is ending on request."""
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        # An error must not keep vmdns from answering.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            one.sendto(text.encode(), self._address)


def drop_ambient_capabilities(status: Path = Path("/proc/self/status")) -> None:
    """Empties the ambient set of this thread and of threads that it starts.

    The right to low ports comes as an ambient capability, which every child would inherit: the reader of VirtualBox,
    and through it VBoxSVC and the VMs. vmdns itself keeps the right.
    """
    try:
        text = status.read_text("utf-8", "replace")
    except OSError:
        return
    ambient = next((line.split()[1] for line in text.splitlines() if line.startswith("CapAmb:")), "0")
    if int(ambient, 16):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
