"""The hosts file in a whole vmdns: read again only when it changed, and what is left out is said."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from vmdns.config import Config
from vmdns.daemon import file_reload
from vmdns.daemon.app import App
from vmdns.daemon.file_reload import ConfigReload
from vmdns.dns.name import to_wire
from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.state import static_records as hosts


def test_what_is_left_out_is_said_once_and_stands_in_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "hosts"
    monkeypatch.setattr("vmdns.daemon.file_reload.hosts_path", lambda: file)
    monkeypatch.setattr(hosts, "MAX_BLOCKED", 5)
    monkeypatch.setattr(App, "_configure", lambda *_: None)  # it listens nowhere
    lines = "".join(f"0.0.0.0 ad{number}.example\n" for number in range(8)) + "192.168.56.20 shop.test\n"
    sentence = "the hosts file has more names than vmdns keeps: 3 of them are left out"

    async def main() -> None:
        told: list[str] = []
        app = App(Config(), tmp_path / "none.toml", {}, told.append)
        file.write_text(lines)
        for _ in range(2):
            await app._read_hosts()
        assert told == [sentence]
        status = app.status()
        assert sentence in status["problems"]
        (source,) = [one for one in status["sources"] if one["name"] == "hosts"]
        assert (source["state"], source["detail"], source["facts"]) == ("failing", sentence, 6)
        assert to_wire("shop.test") in app.hosts.hosts.outside
        kept = app.hosts.hosts
        await app._read_hosts()
        assert app.hosts.hosts is kept
        file.write_text("192.168.56.20 shop.test\n")
        await app._read_hosts()
        assert told == [sentence]
        assert app.status()["problems"] == []
        app.store.close()

    asyncio.run(main())


def test_sighup_reads_the_hosts_file_and_the_name_servers_under_an_unchanged_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "hosts"
    found = Upstreams((Upstream("192.0.2.1"),))
    monkeypatch.setattr("vmdns.daemon.file_reload.hosts_path", lambda: file)
    monkeypatch.setattr("vmdns.daemon.file_reload.read_upstreams", lambda: found)
    monkeypatch.setattr(App, "_configure", lambda *_: None)  # it listens nowhere

    async def main() -> None:
        app = App(Config(), tmp_path / "none.toml", {}, lambda _: None)
        await app._read_hosts()
        assert not app.hosts.hosts.count
        file.write_text("192.168.56.20 shop.test\n")
        app.reload()
        await app._tasks.finished()
        assert to_wire("shop.test") in app.hosts.hosts.outside
        assert app.upstreams.found is found
        app.store.close()

    asyncio.run(main())


def test_a_file_that_an_editor_has_emptied_is_read_when_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "vmdns.toml"
    file.write_text("")
    waited = threading.Event()

    def write(seconds: float) -> None:
        assert seconds == file_reload.REWRITE_SECONDS
        file.write_text("mdns = false\n")
        waited.set()

    monkeypatch.setattr(file_reload.time, "sleep", write)
    applied: list[Config] = []
    log: list[str] = []
    reload = ConfigReload(Config(wildcards=False), file, {}, applied.append, log.append)
    asyncio.run(reload.read())
    assert waited.is_set()
    assert (reload.config.mdns, reload.config.wildcards) == (False, True)
    assert applied == [Config(wildcards=False)]


def test_an_empty_file_is_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "vmdns.toml"
    file.write_text("")
    monkeypatch.setattr(file_reload.time, "sleep", lambda seconds: None)
    reload = ConfigReload(Config(mdns=False), file, {}, lambda before: None, lambda line: None)
    asyncio.run(reload.read())
    assert reload.config == Config()
