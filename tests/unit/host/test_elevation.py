"""The process with elevated rights: it carries out requests, reports their errors, and ends with its caller."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from vmdns.host import elevation, hosts_block
from vmdns.host.plan import Journal, JournalEntry, Setting, Step, apply

WEB = "192.168.56.101\tweb.local"


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """As on a Windows whose user agrees: a helper is started as an ordinary process. Returns the commands so far."""
    started: list[list[str]] = []

    def start(command: Sequence[str]) -> Callable[[float], bool]:
        started.append(list(command))
        child = subprocess.Popen(command)

        def ended(seconds: float) -> bool:
            try:
                return child.wait(seconds) is not None
            except subprocess.TimeoutExpired:
                return False

        return ended

    monkeypatch.setattr(elevation, "start_as_administrator", start)
    return started


def test_requests_and_their_errors(prompts: list[list[str]], tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_bytes(b"127.0.0.1 localhost\r\n")
    helper = elevation.connect_helper(elevation.helper_command("vmdns.host.hosts_block", [str(file)]))
    helper.ask([WEB])
    assert hosts_block.read(file) == [WEB]
    with pytest.raises(OSError, match="is left as it is: no line of a hosts file"):
        helper.ask(["192.168.56.101\tweb # x"])
    helper.ask([])
    helper.close()
    assert len(prompts) == 1
    assert file.read_bytes() == b"127.0.0.1 localhost\r\n", "it takes the block out at its end"


def test_another_program_is_no_helper(prompts: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    start, strangers = elevation.start_as_administrator, []

    def start_after_strangers(command: Sequence[str]) -> Callable[[float], bool]:
        port = int(command[-1].removeprefix("--connect=").partition(":")[0])
        for text in (b"0" * 32 + b"\n", b"\xff\xfe" * 60, b""):
            strangers.append(socket.create_connection(("127.0.0.1", port)))
            strangers[-1].sendall(text)
            strangers[-1].shutdown(socket.SHUT_WR)
        return start(command)

    monkeypatch.setattr(elevation, "start_as_administrator", start_after_strangers)
    helper = elevation.connect_helper(elevation.helper_command("vmdns.host.elevated_settings", []))
    with pytest.raises(OSError, match="cannot change teapot settings"):
        helper.ask({"kind": "teapot", "name": "x", "value": 1})
    helper.close()
    for one in strangers:
        one.close()


def test_a_helper_that_cannot_start(prompts: list[list[str]]) -> None:
    with pytest.raises(OSError, match="ended before it had done anything"):
        elevation.connect_helper(elevation.helper_command("vmdns.no_such_module", []))


def test_a_helper_of_settings_changes_nothing_else(prompts: list[list[str]]) -> None:
    helper = elevation.connect_helper(elevation.helper_command("vmdns.host.elevated_settings", []))
    with pytest.raises(OSError, match="cannot change teapot settings"):
        helper.ask({"kind": "teapot", "name": "x", "value": 1})
    helper.close()
    with pytest.raises((OSError, ValueError)):
        helper.ask({"kind": "nrpt", "name": ".x", "value": None})


def test_one_prompt_for_all_steps(monkeypatch: pytest.MonkeyPatch, prompts: list[list[str]]) -> None:
    monkeypatch.setattr(
        elevation, "open_helper", lambda module: elevation.connect_helper(elevation.helper_command(module, []))
    )
    elevation._settings_helper.cache_clear()
    for _ in range(2):
        with pytest.raises(OSError, match="cannot change teapot settings"):
            elevation.write_elevated("teapot", "x", 1)
    assert len(prompts) == 1
    elevation._settings_helper().close()
    elevation._settings_helper.cache_clear()


@pytest.mark.skipif(sys.platform != "win32", reason="ShellExecuteEx is a call of Windows")
@pytest.mark.parametrize(("code", "words"), [(1223, "prompt was declined"), (5, "Windows could not ask for one")])
def test_a_prompt_that_is_declined(monkeypatch: pytest.MonkeyPatch, code: int, words: str) -> None:
    import pywintypes
    from win32com.shell import shell

    def declined(**_: object) -> None:
        raise pywintypes.error(code, "ShellExecuteEx", "The operation was canceled by the user.")

    monkeypatch.setattr(shell, "ShellExecuteEx", declined)
    with pytest.raises(elevation.ElevationDenied, match=words):
        elevation.start_as_administrator(["x"])


@pytest.mark.skipif(sys.platform != "win32", reason="ShellExecuteEx is a call of Windows")
def test_as_administrator(tmp_path: Path) -> None:
    ended = elevation.start_as_administrator(
        [sys.executable, "-c", "import sys; open(sys.argv[1], 'x')", str(tmp_path / "a b")]
    )
    assert ended(60)
    assert (tmp_path / "a b").exists()


class Idle(Setting):
    """A setting whose command ends well and does nothing."""

    kind, elevated = "idle", False

    def read(self) -> str | None:
        return None

    def write(self, value: str | None) -> None:
        pass

    def describe(self, before: object, after: object) -> str:
        return "set the teapot"


def test_a_change_that_is_not_there_afterwards_is_not_done(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.json")
    with pytest.raises(OSError, match="set the teapot: this had no effect"):
        apply([Step(Idle("x"), None, "hot")], journal, "host", lambda line: None)
    assert journal.entries() == [JournalEntry("host", "idle", "x", None, "hot")]
