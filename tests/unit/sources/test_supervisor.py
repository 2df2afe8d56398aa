"""The supervisor with played workers: small programs that stand in for `vmdns.sources.worker`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import pytest

from vmdns.sources import supervisor as supervise
from vmdns.sources.supervisor import Message, Supervisor
from vmdns.sources.worker import PATIENT_FAILURES


class Played(Supervisor):
    """Starts a given program instead of the worker, and counts how often."""

    def __init__(self, program: str, message: Callable[[Message], None]) -> None:
        super().__init__("auto", None, 30.0, message)
        self.program = textwrap.dedent(program)
        self.pauses: list[float] = []

    def start(self, pause: float, failures: int) -> subprocess.Popen[bytes]:
        self.pauses.append(pause)
        pipe = subprocess.PIPE
        self._process = subprocess.Popen([sys.executable, "-c", self.program], stdin=pipe, stdout=pipe, stderr=pipe)
        return self._process


S = TypeVar("S", bound=Supervisor)


def play(
    make: Callable[[Callable[[Message], None]], S],
    enough: Callable[[list[Message], S], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[list[Message], S]:
    """Runs a supervisor until enough came; its messages and itself."""
    monkeypatch.setattr(supervise, "FIRST_PAUSE", 0.01)
    heard: list[Message] = []
    done = asyncio.Event()

    async def main() -> S:
        def hear(message: Message) -> None:
            heard.append(message)
            if enough(heard, supervisor):
                done.set()

        supervisor = make(hear)
        task = asyncio.create_task(supervisor.run())
        async with asyncio.timeout(30):
            await done.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return supervisor

    return heard, asyncio.run(main())


def test_messages_are_passed_on_and_beats_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
        print('{"found": {}, "detail": ""}')
        print('no json')
        print('{"beat": 1}')
        print('{"put": "virtualbox", "facts": {}}', flush=True)
        import sys; sys.stdin.read()
    """
    heard, played = play(partial(Played, program), lambda heard, _: len(heard) == 2, monkeypatch)
    assert heard == [{"found": {}, "detail": ""}, {"put": "virtualbox", "facts": {}}]
    assert played._process is None  # ended with its input


def test_a_worker_that_ends_is_replaced_and_its_last_words_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    program = "import sys; sys.exit('its library is gone')"
    heard, played = play(partial(Played, program), lambda heard, _: len(heard) == 4, monkeypatch)
    assert heard == [{"lost": "its library is gone"}] * 4
    assert played.pauses[0] < played.pauses[-1]  # it failed at once each time


def test_one_that_had_found_virtualbox_is_replaced_without_growing_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
        print('{"put": "virtualbox", "facts": {}}')
        print('{"lost": "VBoxSVC went away"}', flush=True)
    """
    heard, played = play(partial(Played, program), lambda heard, _: len(heard) == 6, monkeypatch)
    assert heard[:2] == [{"put": "virtualbox", "facts": {}}, {"lost": "VBoxSVC went away"}]
    assert set(played.pauses) == {0.01}


def test_one_that_falls_silent_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "SILENT_SECONDS", 0.5)
    program = "import time; print('{\"beat\": 1}', flush=True); time.sleep(600)"
    heard, played = play(partial(Played, program), lambda heard, _: len(heard) == 1, monkeypatch)
    assert "does not answer" in heard[0]["lost"]
    assert played._process is None or played._process.poll() is not None


def test_a_request_is_sent_once_until_it_is_fulfilled(monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
        import sys
        print('{"found": {}, "detail": ""}', flush=True)
        for count, line in enumerate(sys.stdin):
            print('{"trouble": "neighbours", "text": %s}' % repr(line.strip()).replace('"', '\\\\"').replace("'", '"'))
            print('{"looked": "neighbours"}', flush=True)
    """
    heard: list[Message] = []

    def wish(messages: list[Message], played: Played) -> bool:
        if len(messages) == 1 and not heard:
            for _ in range(3):  # the second and third are one more look, after the first
                played.request_look("neighbours")
        heard[:] = [one for one in messages if "looked" not in one]
        return len(heard) >= 3

    _, played = play(partial(Played, program), wish, monkeypatch)
    assert [one.get("text") for one in heard] == [None, '{"look": "neighbours"}', '{"look": "neighbours"}']
    played.request_look("neighbours")  # without a worker it is nothing


def test_a_single_look_has_no_time_for_an_api_that_may_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker uses VBoxManage at once where the API does not answer."""
    program = """
        import json, sys
        print(json.dumps({"found": {}, "detail": json.loads(sys.stdin.readline())["failures"]}))
        for source in ("virtualbox", "leases", "addresses", "neighbours"):
            print(json.dumps({"put": source, "facts": {}}), flush=True)
    """
    monkeypatch.setattr(supervise, "find", lambda environ: True)
    made = partial(Supervisor, worker=[sys.executable, "-c", textwrap.dedent(program)])
    monkeypatch.setattr(supervise, "Supervisor", made)
    found, *puts = supervise.look_once("auto", None, 30.0)
    assert found["detail"] >= PATIENT_FAILURES
    assert len(puts) == 4
