"""Prepares the process of `vmdns run`: logging, limits, privileges, scheduling."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

from vmdns.daemon.log_output import print_log_records
from vmdns.host.systemd_notify import drop_ambient_capabilities

# Seconds that the UDP thread waits at most for the interpreter lock while the event loop runs Python code.
SWITCH_INTERVAL = 0.0001
OPEN_FILES = 4096


def prepare_process(log: Callable[[str], None]) -> None:
    """To be called once, before the event loop starts."""
    print_log_records(log)
    _raise_open_files_limit()
    drop_ambient_capabilities()
    sys.setswitchinterval(SWITCH_INTERVAL)
    # A full garbage collection stops all threads; it need not visit what was imported and stays.
    gc.freeze()


def _raise_open_files_limit() -> None:
    """Raises the soft limit (256 on macOS, 1024 on Linux): each forwarded query takes one socket."""
    try:
        import resource
    except ImportError:
        return  # Windows has no such limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
