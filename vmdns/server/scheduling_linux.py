"""Which threads the system lets go first, where several want the same core (Linux).

A thread that asks for short turns goes before those with longer ones as soon as it wakes (EEVDF, since Linux 6.12):
sched_setattr(2), which takes no right. An earlier Linux ignores it. More of the processor takes a right, and is asked
for beside it.
"""

from __future__ import annotations

import os
import struct
import sys

SHORT_SECONDS, LONG_SECONDS = 0.0001, 0.1  # the shortest and the longest turns there are
# By so much lower is the nice value of a thread with short turns, where that is allowed. One that has just run has to
# wait until the others have run as long, or it is not let go first when it wakes; and then nobody looks again until the
# next tick of the clock. With this it is a third of that time.
NICER = 5
_NUMBERS = {"x86_64": 314, "aarch64": 274}  # of sched_setattr
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # struct sched_attr: size, policy, flags, nice, priority, runtime, ...
_LEAST_NICE = -20
_RESET_ON_FORK = 1
_SET_TIMERSLACK = 29  # of prctl(2)


def short_turns() -> bool:
    """For a thread that others wait for. Whether the system took it.

    It weighs more than others where its user may have that (root, or RLIMIT_NICE). Its timers are on time as well, and
    not up to 50 us late: with one, a thread waits for the interpreter's lock.
    """
    took = _ask(SHORT_SECONDS, 0, -NICER) or _ask(SHORT_SECONDS, 0)
    return took and _call("prctl", _SET_TIMERSLACK, 1, 0, 0, 0) == 0


def long_turns() -> bool:
    """For a thread that does much at once: the others go before it. Whether the system took it.

    What it starts has turns as ever: VBoxSVC may be among it, and then all VMs that are started later.
    """
    return _ask(LONG_SECONDS, _RESET_ON_FORK)


def _ask(seconds: float, flags: int, more_nice: int = 0) -> bool:
    """Asks for turns of this length for the calling thread, and for another nice value."""
    if sys.platform != "linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    number = _NUMBERS.get(os.uname().machine)
    if number is None:
        return False
    nice = max(os.getpriority(os.PRIO_PROCESS, 0) + more_nice, _LEAST_NICE)
    wanted = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, flags, nice, 0, round(seconds * 1e9), 0, 0)
    return _call("syscall", number, 0, wanted, 0) == 0


def _call(name: str, *arguments: int | bytes) -> int:
    import ctypes

    result: int = getattr(ctypes.CDLL(None), name)(*arguments)
    return result
