"""The control channel over real sockets: the Unix socket, and on any system the port with a token that Windows uses."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from vmdns.control import server as control
from vmdns.control.client import ControlError, NotRunning, instance_key, request, stream
from vmdns.control.server import ControlBusy, ControlServer, make_private

unix_only = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets and owners of files")
KINDS = [pytest.param(False, id="socket", marks=unix_only), pytest.param(True, id="port")]


# Another process of this user asks.
ASK = """
import sys
from pathlib import Path
from vmdns.control.client import request
print("yes" if request(Path(sys.argv[1]), None, {"do": "x"}, 10) == {"you": {"do": "x"}} else "no", end="")
"""


@pytest.fixture
def folder(short: Path) -> Path:
    return short / "c"


async def echo(message: dict[str, Any]) -> dict[str, Any]:
    return {"you": message, "pid": os.getpid()} if message == {"do": "status"} else {"you": message}


@contextlib.asynccontextmanager
async def serving(
    folder: Path, handler: control.Handler = echo, key: str = "default", loopback: bool = sys.platform == "win32"
) -> AsyncIterator[ControlServer]:
    server = ControlServer(loopback)
    await server.start(folder, key, handler)
    try:
        yield server
    finally:
        await server.close()


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs the test in an event loop, for 30 s at most."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), 30))

    return run


async def ask(folder: Path, message: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    return await asyncio.to_thread(request, folder, key, message, 10)


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


async def raw(folder: Path, data: bytes) -> bytes:
    """The response to these bytes."""
    reader, writer = await connect(folder)
    with contextlib.suppress(ConnectionError):
        writer.write(data)
        await writer.drain()
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.transport.abort()


def token(folder: Path) -> dict[str, str]:
    """What a request needs as well where the channel is a port."""
    file = folder / "default.json"
    return {"token": json.loads(file.read_text())["token"]} if file.exists() else {}


async def connect(folder: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    file = folder / "default.json"
    if file.exists():
        return await asyncio.open_connection("127.0.0.1", json.loads(file.read_text())["port"])
    return await asyncio.open_unix_connection(folder / "default.sock")


@pytest.mark.parametrize("loopback", KINDS)
@in_loop
async def test_a_request_and_its_response(folder: Path, loopback: bool) -> None:
    async with serving(folder, loopback=loopback):
        for message in ({"do": "names", "text": "é\n"}, {"do": "long", "text": "x" * 500_000}):
            assert await ask(folder, message) == {"you": message}
    with pytest.raises(NotRunning, match="no vmdns runs"):
        await ask(folder, {})
    assert os.listdir(folder) == []


@unix_only
@in_loop
async def test_the_socket_is_for_this_user_only(folder: Path) -> None:
    os.mkdir(folder, mode=0o755)
    async with serving(folder):
        assert (mode(folder), mode(folder / "default.sock")) == (0o700, 0o600)
    async with serving(folder, loopback=True):
        assert mode(folder / "default.json") == 0o600


@pytest.mark.skipif(sys.platform != "linux", reason="SO_PEERCRED")
@pytest.mark.parametrize("user", [os.geteuid() + 4711 if os.name == "posix" else 0, None])
@in_loop
async def test_a_peer_of_another_user_or_of_an_unknown_one_is_dropped(
    folder: Path, monkeypatch: pytest.MonkeyPatch, user: int | None
) -> None:
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        assert control.peer_user(here) == os.geteuid()

    def peer_user(connection: socket.socket) -> int:
        if user is None:
            raise OSError("gone")
        return user

    async with serving(folder):
        assert await raw(folder, b'{"do":"names"}\n') == b'{"you":{"do":"names"}}\n'
        monkeypatch.setattr(control, "peer_user", peer_user)
        assert await raw(folder, b'{"do":"names"}\n') == b""
        with pytest.raises(ControlError):
            await ask(folder, {"do": "status"})


def test_the_user_in_a_struct_xucred_of_macos() -> None:
    data = struct.pack("=IIh2x16I", 0, 501, 3, 20, 12, 61, *[0] * 13)
    assert control.user_of_xucred(data) == 501
    for wrong in (b"", data[:7], struct.pack("=I", 1) + data[4:]):
        with pytest.raises(OSError, match="the system's answer"):
            control.user_of_xucred(wrong)


@unix_only
@pytest.mark.parametrize("link", [True, False])
def test_a_file_or_link_in_place_of_the_socket_is_left_alone(folder: Path, link: bool) -> None:
    folder.mkdir(mode=0o777)
    target, place = folder.parent / "target", folder / "default.sock"
    target.write_text("mine")
    place.symlink_to(target) if link else place.write_text("mine")
    with pytest.raises(ControlError, match="is in the way; remove it"):
        asyncio.run(ControlServer(False).start(folder, "default", echo))
    assert (target.read_text(), place.read_text(), mode(folder)) == ("mine", "mine", 0o700)


@unix_only
def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "other")
    for name in ("file", "link"):
        with pytest.raises(ControlError, match="is not a folder of this user"):
            make_private(tmp_path / name)
    with pytest.raises(ControlError, match="cannot be made"):
        make_private(tmp_path / "file" / "below")
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ControlError, match="is not a folder of this user"):
        asyncio.run(ControlServer(False).start(tmp_path / "other", "default", echo))
    with pytest.raises(NotRunning):
        request(tmp_path / "other", None, {}, 1)


@pytest.mark.parametrize("loopback", KINDS)
@in_loop
async def test_an_invalid_request_gets_an_error(folder: Path, loopback: bool) -> None:
    requests = (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"[]\n", b"[" * 100_000 + b"\n", b"\xff\xfe\n",
                b"9" * 10_000 + b"\n", b"\n")  # fmt: skip
    async with serving(folder, loopback=loopback):
        for sent in requests:
            assert "not a line of JSON" in json.loads(await raw(folder, sent))["error"]
            assert await ask(folder, {"do": "x"}) == {"you": {"do": "x"}}
        # The connection may break before the error is read; it must not be served.
        assert b"you" not in await raw(folder, b'{"a":"' + b"x" * 3 * control.MAX_REQUEST + b'"}\n')
        assert await ask(folder, {"do": "x"}) == {"you": {"do": "x"}}


@pytest.mark.parametrize("sent", [b"{}\n", b'{"token":""}\n', b'{"token":null}\n', b'{"token":"\\ud800"}\n'])
@in_loop
async def test_a_port_wants_its_token(folder: Path, sent: bytes) -> None:
    async with serving(folder, loopback=True):
        reply = json.loads(await raw(folder, sent))
        assert "error" in reply
        assert "you" not in reply
        token = json.loads((folder / "default.json").read_text())["token"]
        assert len(token) == 64
        assert json.loads(await raw(folder, b'{"token":"%s"}\n' % token.encode())) == {"you": {}}


@pytest.mark.parametrize(("error", "text"), [(ValueError("no such type"), "no such type"), (KeyError(), "KeyError")])
@in_loop
async def test_an_error_of_the_handler_is_the_response(folder: Path, error: Exception, text: str) -> None:
    async def fail(message: dict[str, Any]) -> dict[str, Any]:
        raise error

    async def stream_and_fail() -> AsyncIterator[dict[str, Any]]:
        yield {"first": 1}
        raise error

    def handler(message: dict[str, Any]) -> Any:
        if message["do"] == "object":
            return asyncio.sleep(0, {"not": object()})
        return stream_and_fail() if message["do"] == "watch" else fail(message)

    async with serving(folder, handler):
        assert await ask(folder, {"do": "ask"}) == {"error": text}
        assert "JSON" in (await ask(folder, {"do": "object"}))["error"]
        lines = await asyncio.to_thread(lambda: list(stream(folder, None, {"do": "watch"})))
        assert lines == [{"first": 1}, {"error": text}]


class Watch:
    """A handler whose streams send what is put into the queue, and that counts the open ones."""

    def __init__(self) -> None:
        self.open = 0
        self.feed: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def until(self, count: int) -> None:
        while self.open != count:
            await asyncio.sleep(0.001)

    async def __call__(self, message: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        self.open += 1
        try:
            yield {"names": []}
            while True:
                yield await self.feed.get()
        finally:
            self.open -= 1


@pytest.mark.parametrize("loopback", KINDS)
@in_loop
async def test_a_stream_lasts_until_either_side_ends_it(folder: Path, loopback: bool) -> None:
    watch = Watch()
    async with serving(folder, watch, loopback=loopback):
        lines = await asyncio.to_thread(stream, folder, None, {"do": "watch"})
        assert await asyncio.to_thread(next, lines) == {"names": []}
        for number in range(3):
            watch.feed.put_nowait({"change": number})
            assert await asyncio.to_thread(next, lines) == {"change": number}
        lines.close()  # type: ignore[attr-defined]
        await watch.until(0)
        reader, writer = await connect(folder)
        if not loopback:
            writer.write(b'{"do":"watch"}\n')
            assert await reader.readline() == b'{"names":[]}\n'
            writer.write(b"x")  # a client that sends more ends its stream
            assert await reader.read() == b""
        writer.close()
        await watch.until(0)
        lines = await asyncio.to_thread(stream, folder, None, {"do": "watch"})
        await watch.until(1)
    assert watch.open == 0
    with contextlib.suppress(ControlError):
        assert await asyncio.to_thread(list, lines) == [{"names": []}]


@in_loop
async def test_the_number_of_clients_is_bounded(folder: Path) -> None:
    watch = Watch()
    async with serving(folder, watch):
        asking = json.dumps({"do": "watch", **token(folder)}).encode() + b"\n"
        clients = [await connect(folder) for _ in range(control.MAX_CLIENTS)]
        for _, writer in clients:
            writer.write(asking)
        await watch.until(control.MAX_CLIENTS)
        reply = json.loads(await raw(folder, asking))
        assert f"{control.MAX_CLIENTS} clients" in reply["error"]
        silent = [await connect(folder) for _ in range(control.MAX_CLIENTS)]
        assert await raw(folder, asking) == b""
        for _, writer in silent + clients:
            writer.close()
        await watch.until(0)
        reader, writer = await connect(folder)
        writer.write(asking)
        assert await reader.readline() == b'{"names":[]}\n'
        writer.close()


@pytest.mark.parametrize("sent", [b"", b'{"do":'])
@in_loop
async def test_a_silent_client_is_disconnected(folder: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(control, "READ_SECONDS", 0.01)
    async with serving(folder):
        assert await raw(folder, sent) == b""


@in_loop
async def test_a_client_that_reads_nothing_is_disconnected(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "WRITE_SECONDS", 0.5)
    ended = asyncio.Event()

    async def flood(message: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        try:
            while True:
                yield {"text": "x" * 1_000_000}
        finally:
            ended.set()

    async with serving(folder, flood):
        lines = await asyncio.to_thread(stream, folder, None, {"do": "watch"})
        assert len((await asyncio.to_thread(next, lines))["text"]) == 1_000_000
        await ended.wait()
        lines.close()  # type: ignore[attr-defined]


@in_loop
async def test_a_handler_that_hangs_times_out_on_both_sides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(folder, lambda message: asyncio.sleep(3600.0, {})):
        with pytest.raises(ControlError, match=r"does not answer within 0\.01 s"):
            await asyncio.to_thread(request, folder, None, {}, 0.01)
        monkeypatch.setattr(control, "ANSWER_SECONDS", 0.01)
        assert await ask(folder, {}) == {"error": "TimeoutError"}


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (b"", "ended without an answer"),
        (b'{"a":', "in the middle of an answer"),
        (b"[]\n", "is not vmdns"),
        (b"SSH-2.0-x\r\n", "in the middle"),
    ],
)
@in_loop
async def test_another_program_at_the_port(folder: Path, sent: bytes, error: str) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(sent)
        writer.close()

    make_private(folder)
    server = await asyncio.start_server(other, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    (folder / "default.json").write_text(json.dumps({"port": port, "token": "x"}))
    with pytest.raises(ControlError, match=error):
        await ask(folder, {})
    server.close()


@pytest.mark.parametrize("loopback", KINDS)
@in_loop
async def test_one_server_for_one_home(folder: Path, loopback: bool) -> None:
    async with serving(folder, key="aaa", loopback=loopback), serving(folder, key="bbb", loopback=loopback):
        with pytest.raises(ControlBusy, match=rf"runs already \(pid {os.getpid()}\)"):
            await ControlServer(loopback).start(folder, "aaa", echo)
        assert await ask(folder, {"n": 1}, "aaa") == {"you": {"n": 1}}
    async with serving(folder, key="aaa", loopback=loopback):
        assert await ask(folder, {"n": 2}, "aaa") == {"you": {"n": 2}}


@unix_only
@in_loop
async def test_a_socket_without_a_server_is_replaced(folder: Path) -> None:
    make_private(folder)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(folder / "default.sock"))
    with pytest.raises(NotRunning):
        await ask(folder, {})
    async with serving(folder):
        assert await ask(folder, {"n": 1}) == {"you": {"n": 1}}


@pytest.mark.skipif(sys.platform != "win32", reason="the port is used on Windows only")
@in_loop
async def test_a_port_that_a_crashed_server_left_to_another_program_gets_no_request(folder: Path) -> None:
    """By the time at which the process was started: its number may be another process's, too."""
    asked: list[bytes] = []

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"{}\n")
        writer.close()

    async with serving(folder):
        file = folder / "default.json"
        left = json.loads(file.read_text())
        assert await asyncio.to_thread(subprocess.check_output, [sys.executable, "-c", ASK, folder], text=True) == "yes"
    server = await asyncio.start_server(other, "127.0.0.1", 0)
    left["port"] = server.sockets[0].getsockname()[1]
    for stale in ({**left, "pid": 1 << 22}, {**left, "started": "earlier"}):
        file.write_text(json.dumps(stale))
        with pytest.raises(NotRunning):
            await ask(folder, {"do": "status"})
    assert asked == []
    async with serving(folder):
        assert await ask(folder, {"n": 1}) == {"you": {"n": 1}}
    file.write_text(json.dumps(left))
    assert await ask(folder, {"do": "status"}) == {}  # this very process
    server.close()


@unix_only
def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="path too long"):
        asyncio.run(ControlServer(False).start(tmp_path / ("x" * 100), "default", echo))


def test_the_key_of_a_virtualbox_home(tmp_path: Path) -> None:
    assert instance_key(None, {}) == "default"
    assert instance_key("", {"VBOX_USER_HOME": ""}) == "default"
    key = instance_key(tmp_path, {})
    assert len(key) == 12
    assert set(key) <= set("0123456789abcdef")
    assert instance_key(f"{tmp_path}/x/..", {}) == instance_key(None, {"VBOX_USER_HOME": str(tmp_path)}) == key
    assert instance_key(tmp_path / "other", {"VBOX_USER_HOME": str(tmp_path)}) != key


def named(name: str) -> control.Handler:
    async def answer(message: dict[str, Any]) -> dict[str, Any]:
        return {"i am": name}

    return answer


@in_loop
async def test_which_server_gets_the_request(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VBOX_USER_HOME", raising=False)
    async with serving(folder, named("aaa"), "aaa"):
        # Files that crashed servers left do not count.
        (folder / "old.json").write_text('{"port": 1, "token": "x"}')
        (folder / "bad.json").write_text('{"port": []}')
        (folder / "odd.json").write_text("[1")
        (folder / "big.json").write_text('{"port": 99999, "token": "x"}')
        assert await ask(folder, {}) == {"i am": "aaa"}
        with pytest.raises(NotRunning, match="for this VirtualBox home"):
            await ask(folder, {}, "bbb")
        async with serving(folder, named("bbb"), "bbb", loopback=True):
            with pytest.raises(ControlError, match="several vmdns run"):
                await ask(folder, {})
            assert await ask(folder, {}, "bbb") == {"i am": "bbb"}
            async with serving(folder, named("default")):
                assert await ask(folder, {}) == {"i am": "default"}
