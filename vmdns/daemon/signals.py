"""What signals do: SIGINT, SIGTERM and a closed terminal end vmdns, SIGHUP reads the configuration, the hosts
file and the host's name servers again, SIGUSR1 writes the status to the log, SIGUSR2 does nothing."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Mapping

Call = Callable[[], object]


def install(stop: Call, reload: Call, log_status: Call) -> None:
    """Handles signals in the running event loop from now on; those that the system lacks are left out."""
    on_terminal = _has_terminal()

    def hang_up() -> None:
        # The kernel sends SIGHUP too when the terminal is closed (termios(3)). A program that runs in it ends then.
        closed = on_terminal and not _has_terminal()
        (stop if closed else reload)()

    calls: Mapping[str, Call] = {
        "SIGINT": stop,
        "SIGTERM": stop,
        "SIGBREAK": stop,
        "SIGHUP": hang_up,
        "SIGUSR1": log_status,
        # Not SIG_IGN, which the programs that vmdns starts would inherit.
        "SIGUSR2": lambda: None,
    }
    for name, call in calls.items():
        number = getattr(signal, name, None)
        if number is not None:
            _handle(asyncio.get_running_loop(), number, call)


def _has_terminal() -> bool:
    try:
        return sys.stdout is not None and sys.stdout.isatty()
    except ValueError:  # it is closed
        return False


def _handle(loop: asyncio.AbstractEventLoop, number: signal.Signals, call: Call) -> None:
    """Calls back in the loop when the signal comes. The part for Windows has not been run there."""
    try:
        loop.add_signal_handler(number, call)
    except NotImplementedError:
        # Windows: the loop's selector sleeps through signals, unless they write to a socket that it watches.
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(call))
        ours, theirs = socket.socketpair()
        for one in (ours, theirs):
            one.setblocking(False)
        signal.set_wakeup_fd(theirs.detach())
        loop.add_reader(ours, ours.recv, 64)
