"""Has the system run a thread as soon as it wakes, though others are at work on the same core (Linux).

A thread that asks for short turns goes before those with longer ones (EEVDF, since Linux 6.12), and gets no more of the
processor for it: sched_setattr(2), which takes no right. An earlier Linux ignores it.
"""

from __future__ import annotations

import os
import struct
import sys

SECONDS = 0.0001
_NUMBERS = {"x86_64": 314, "aarch64": 274}  # of sched_setattr
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # struct sched_attr: size, policy, flags, nice, priority, runtime, ...


def short_turns() -> bool:
    """Asks for them for the calling thread. Whether the system took it."""
    if sys.platform != "linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    number = _NUMBERS.get(os.uname().machine)
    if number is None:
        return False
    import ctypes

    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, round(SECONDS * 1e9), 0, 0)
    return bool(ctypes.CDLL(None).syscall(number, 0, wanted, 0) == 0)
