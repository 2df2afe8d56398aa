"""MachineState's numbers, by the version of the API that speaks, and errors of a connection by COM."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vmdns.sources.installation import Installation, find
from vmdns.sources.reader import ReaderUnavailable, VirtualBoxLost
from vmdns.sources.virtualbox_api import Api, connect, describe_error, name_states
from vmdns.sources.worker import open_reader
from vmdns.state.facts import ONLINE_STATES

# As vboxapi of each version has them (VirtualBox SDK reference, enum MachineState).
SIX = {"Null": 0, "PoweredOff": 1, "Saved": 2, "Teleported": 3, "Aborted": 4, "Running": 5, "Paused": 6}
SEVEN = {
    "Null": 0, "PoweredOff": 1, "Saved": 2, "Teleported": 3, "Aborted": 4, "AbortedSaved": 5, "Running": 6, "Paused": 7,
    "FirstOnline": 6, "LastOnline": 19, "FirstTransient": 9, "LastTransient": 25,
}  # fmt: skip


@pytest.mark.parametrize(
    ("version", "constants", "running"),
    [
        ("6_1", SIX, 5),
        ("7_0", SEVEN, 6),
        ("7_2", SEVEN, 6),
        # vboxapi of another version than VirtualBox's.
        ("6_1", SEVEN, 5),
        ("7_2", SIX, 6),
        # None at all.
        ("6_1", {}, 5),
        ("7_2", {}, 6),
        ("10_0", {}, 6),
    ],
)
def test_the_number_of_each_state(version: str, constants: dict[str, int], running: int) -> None:
    names = name_states(constants, version)
    assert names[running] == "Running"
    assert names[running + 1] == "Paused"
    assert names[2] == "Saved"
    assert names[4] == "Aborted"
    assert names.get(5) == ("Running" if running == 5 else "AbortedSaved")
    assert not [name for name in names.values() if name.startswith(("First", "Last"))]


@pytest.mark.parametrize(("version", "first", "last"), [("6_1", 5, 18), ("7_0", 6, 19), ("7_2", 6, 19)])
def test_the_states_with_addresses_are_first_online_to_last_online(version: str, first: int, last: int) -> None:
    names = name_states({}, version)
    assert {number for number, name in names.items() if name in ONLINE_STATES} == set(range(first, last + 1))
    assert set(names.values()) >= ONLINE_STATES


def test_a_state_of_a_later_version_keeps_its_own_name() -> None:
    assert name_states({**SEVEN, "Dreaming": 40}, "7_3")[40] == "Dreaming"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`connect` sets it for vboxapi."""
    monkeypatch.setenv("VBOX_PROGRAM_PATH", "/none")


HERE = Installation(Path("/none"), Path("/none/VBoxManage"))


class ComError(Exception):
    """As pywintypes.com_error: the code is signed, and the text is translated."""

    def __init__(self, code: int) -> None:
        super().__init__(code - (1 << 32), "알 수 없는 오류", None, None)
        self.hresult = code - (1 << 32)


def fail(code: int) -> None:
    raise ComError(code)


@pytest.mark.parametrize(
    ("code", "kind", "text"),
    [
        (0x8002801D, ReaderUnavailable, "TYPE_E_LIBNOTREGISTERED"),
        (0x80040154, ReaderUnavailable, "REGDB_E_CLASSNOTREG"),
        (0x800401F3, ReaderUnavailable, "CO_E_CLASSSTRING"),
        (0x80004002, ReaderUnavailable, "E_NOINTERFACE"),
        (0x80070005, VirtualBoxLost, "as administrator or as another user"),
        (0x80080005, VirtualBoxLost, "0x80080005"),  # CO_E_SERVER_EXEC_FAILURE
        (0x800706BA, VirtualBoxLost, "0x800706ba"),  # the RPC server is unavailable
    ],
)
def test_errors_of_com(code: int, kind: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pyvbox starts, and where VBoxSVC is asked for. What stays is no reason to wait for it."""
    monkeypatch.setitem(sys.modules, "virtualbox", SimpleNamespace(Manager=lambda: fail(code)))
    with pytest.raises(kind, match=text):
        connect(HERE)
    manager = SimpleNamespace(getVirtualBox=lambda: fail(code))
    monkeypatch.setitem(sys.modules, "virtualbox", SimpleNamespace(Manager=lambda: SimpleNamespace(manager=manager)))
    with pytest.raises(kind, match=text) as caught:
        Api(HERE)
    assert str(caught.value).isascii()


def test_errors_of_com_are_described_by_their_codes() -> None:
    error = ComError(0x80020009)
    assert describe_error(error) == "0x80020009"
    error.excepinfo = (0, "Machine", "기계", None, 0, 0x80BB0007 - (1 << 32))  # type: ignore[attr-defined]
    assert describe_error(error) == "0x80bb0007"
    assert describe_error(ValueError("no number")) == "no number"


def test_an_api_that_is_not_registered_is_replaced_by_vboxmanage_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "virtualbox", SimpleNamespace(Manager=lambda: fail(0x8002801D)))
    monkeypatch.setattr("vmdns.sources.vboxmanage_reader.VBoxManageReader", lambda *_: "vboxmanage")
    options = {"reader": "auto", "interval": 30.0, "failures": 0}
    reader, why = open_reader(HERE, options, lambda: None)
    assert reader == "vboxmanage"
    assert "TYPE_E_LIBNOTREGISTERED" in why
    with pytest.raises(ReaderUnavailable):
        open_reader(HERE, {**options, "reader": "api"}, lambda: None)


@pytest.mark.skipif(sys.platform != "win32", reason="COM of Windows")
def test_windows_without_virtualbox(monkeypatch: pytest.MonkeyPatch) -> None:
    if find({}) is not None or importlib.util.find_spec("virtualbox") is None:
        pytest.skip("needs a Windows with pyvbox and without VirtualBox")
    with pytest.raises(ReaderUnavailable, match="Windows does not know its API"):
        connect(HERE)
