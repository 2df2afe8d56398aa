"""The time slice that the UDP thread requests, as the kernel reports it."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import threading

import pytest

from vmdns.server.scheduling_linux import SLICE_SECONDS, request_short_slice

GETATTR = {"x86_64": 315, "aarch64": 275}
pytestmark = pytest.mark.skipif(
    platform.machine() not in GETATTR or not hasattr(os, "sched_getscheduler"), reason="Linux only"
)


def attributes() -> tuple[int, int, int]:
    """Policy, nice value and time slice (ns) of the calling thread."""
    buffer = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(GETATTR[platform.machine()], 0, buffer, 48, 0) == 0
    _, policy, _, nice, _, time_slice, *_ = struct.unpack("=IIQiIQQQ", buffer.raw)
    return policy, nice, time_slice


def test_one_thread_gets_a_short_slice_and_keeps_its_nice_value() -> None:
    found: list[object] = []

    def work() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, nice)  # of this thread
        found.extend((request_short_slice(), attributes()))

    nice = min(os.getpriority(os.PRIO_PROCESS, 0) + 3, 19)  # a lower one may be forbidden
    before = attributes()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    accepted, after = found
    if not accepted:
        pytest.skip("this system has no sched_setattr, or forbids it")
    assert after in ((os.SCHED_OTHER, nice, round(SLICE_SECONDS * 1e9)), (os.SCHED_OTHER, nice, 0))  # 0 before 6.12
    assert attributes() == before
