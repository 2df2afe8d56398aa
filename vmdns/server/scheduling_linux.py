"""Linux scheduling hint for the UDP thread.

Requests a short EEVDF time slice with sched_setattr(2), so that the thread preempts CPU-bound tasks when it wakes.
Needs no privilege; kernels before 6.12 ignore it.
"""

from __future__ import annotations

import os
import struct
import sys

SLICE_SECONDS = 0.0001  # the shortest slice that the kernel accepts
_SYSCALL_NUMBERS = {"x86_64": 314, "aarch64": 274}  # of sched_setattr
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")  # struct sched_attr: size, policy, flags, nice, priority, runtime, ...


def request_short_slice() -> bool:
    """Requests the shortest time slice for the calling thread. Returns whether the kernel accepted it."""
    if sys.platform != "linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    number = _SYSCALL_NUMBERS.get(os.uname().machine)
    if number is None:
        return False
    import ctypes

    nice = os.getpriority(os.PRIO_PROCESS, 0)
    attributes = _SCHED_ATTR.pack(_SCHED_ATTR.size, os.SCHED_OTHER, 0, nice, 0, round(SLICE_SECONDS * 1e9), 0, 0)
    return ctypes.CDLL(None).syscall(number, 0, attributes, 0) == 0  # type: ignore[no-any-return]
