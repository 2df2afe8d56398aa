"""Short turns of a thread, as the kernel has them."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import threading

import pytest

from vmdns.serve.turn import SECONDS, short_turns

GETATTR = {"x86_64": 315, "aarch64": 275}


def attributes() -> tuple[int, ...]:
    """Policy, nice and turn (ns) of the calling thread."""
    held = ctypes.create_string_buffer(48)
    assert ctypes.CDLL(None).syscall(GETATTR[platform.machine()], 0, held, 48, 0) == 0
    _, policy, _, nice, _, turn, *_ = struct.unpack("=IIQiIQQQ", held.raw)
    return policy, nice, turn


@pytest.mark.skipif(platform.machine() not in GETATTR or not hasattr(os, "sched_getscheduler"), reason="Linux only")
def test_one_thread_gets_short_turns_and_nothing_else_of_it_changes() -> None:
    found: list[object] = []

    def work() -> None:
        os.setpriority(os.PRIO_PROCESS, 0, 3)  # of this thread
        found.extend((attributes(), short_turns(), attributes()))

    before = attributes()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (policy, nice, _), took, after = found  # type: ignore[misc]
    if not took:
        pytest.skip("this system has no sched_setattr, or forbids it")
    assert after[:2] == (policy, nice) == (os.SCHED_OTHER, 3)
    assert after[2] in (0, round(SECONDS * 1e9))  # 0 before Linux 6.12
    assert attributes() == before
