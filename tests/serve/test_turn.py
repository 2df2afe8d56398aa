"""Short and long turns of a thread, as the kernel has them."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from vmdns.server.scheduling_linux import LONG_SECONDS, NICER, SHORT_SECONDS, long_turns, short_turns

GETATTR = {"x86_64": 315, "aarch64": 275}
GET_TIMERSLACK = 30
pytestmark = pytest.mark.skipif(
    platform.machine() not in GETATTR or not hasattr(os, "sched_getscheduler"), reason="Linux only"
)


def attributes() -> tuple[int, ...]:
    """Policy, nice, turn (ns) and how late timers may be (ns) of the calling thread."""
    held = ctypes.create_string_buffer(48)
    system = ctypes.CDLL(None)
    assert system.syscall(GETATTR[platform.machine()], 0, held, 48, 0) == 0
    _, policy, _, nice, _, turn, *_ = struct.unpack("=IIQiIQQQ", held.raw)
    return policy, nice, turn, system.prctl(GET_TIMERSLACK, 0, 0, 0, 0)


def may_be_less_nice() -> bool:
    """Whether this user may lower the nice value of a thread, tried in one."""
    found: list[bool] = []

    def work() -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) - 1)
        except PermissionError:
            found.append(False)
        else:
            found.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize(
    ("ask", "seconds", "slack"), [(short_turns, SHORT_SECONDS, 1), (long_turns, LONG_SECONDS, None)]
)
def test_one_thread_gets_them_and_no_other(ask: Callable[[], bool], seconds: float, slack: int | None) -> None:
    found: list[object] = []

    def work() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, given)  # of this thread
        found.extend((attributes(), ask(), attributes()))

    given = min(os.getpriority(os.PRIO_PROCESS, 0) + 3, 19)  # more may be forbidden
    before = attributes()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (policy, nice, _, timers), took, after = found  # type: ignore[misc]
    if not took:
        pytest.skip("this system has no sched_setattr, or forbids it")
    assert (policy, nice) == (os.SCHED_OTHER, given)
    assert after[:2] == (policy, nice - NICER if ask is short_turns and may_be_less_nice() else nice)
    assert after[2] in (0, round(seconds * 1e9))  # 0 before Linux 6.12
    assert after[3] == (timers if slack is None else slack)
    assert attributes() == before


def test_what_a_thread_with_long_turns_starts_has_turns_as_ever() -> None:
    """VBoxSVC, and the VMs that it starts, may be among it."""
    program = f"""
import subprocess, sys, threading
sys.path[:0] = {[os.path.dirname(__file__), *sys.path]!r}
from test_turn import attributes
from vmdns.server.scheduling_linux import long_turns
if sys.argv[1:]:
    print(attributes())
    sys.exit()
before, took = attributes(), long_turns()
child = subprocess.run([sys.executable, "-c", sys.orig_argv[2], "child"], capture_output=True, text=True).stdout
thread = threading.Thread(target=lambda: print(attributes() == before, child.strip() == str(before), took))
thread.start()
thread.join()
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert said.stdout.startswith("True True "), said.stdout + said.stderr
