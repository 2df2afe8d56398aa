"""What a service manager is told, as systemd's sd_notify(3) has it: a datagram to the socket that it named.

Without such a socket nobody is told, and nothing is done.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping

from vmdns.dns.escaping import safe


class Notifier:
    """The socket of the service manager. seconds is how often it wants a sign of life (sd_watchdog_enabled(3)), 0 for
    not at all."""

    def __init__(self, address: str = "", seconds: float = 0.0) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.seconds = seconds

    def ready(self, status: str) -> None:
        """vmdns answers; status is a line for the user."""
        self._tell(f"READY=1\nSTATUS={safe(status)}")

    def alive(self) -> None:
        """vmdns still answers."""
        self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """vmdns ends, as it was told to."""
        self._tell("STOPPING=1")

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        # A manager that cannot be told now must not keep vmdns from answering.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
            one.setblocking(False)
            one.sendto(text.encode(), self._address)


def from_environ(environ: MutableMapping[str, str], pid: int | None = None) -> Notifier:
    """The notifier that the environment names, taken out of it: what vmdns starts has nothing to tell the manager."""
    address = environ.pop("NOTIFY_SOCKET", "")
    micros = environ.pop("WATCHDOG_USEC", "")
    whose = environ.pop("WATCHDOG_PID", "")
    if not hasattr(socket, "AF_UNIX") or address[:1] not in ("/", "@"):
        return Notifier()
    meant = whose in ("", str(os.getpid() if pid is None else pid))
    return Notifier(address, int(micros) / 1e6 if micros.isdecimal() and meant else 0.0)
