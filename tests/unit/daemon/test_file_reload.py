"""The hosts file and the configuration are read again only when they changed, and what is left out is reported."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from vmdns.config import Config
from vmdns.daemon import file_reload
from vmdns.daemon.app import App
from vmdns.daemon.file_reload import ConfigReload
from vmdns.dns.name import to_wire
from vmdns.dns.upstreams import Upstream, Upstreams
from vmdns.state import static_records as hosts


@pytest.fixture
def hosts_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(file_reload, "hosts_path", lambda: tmp_path / "hosts")
    monkeypatch.setattr(App, "_configure", lambda *_: None)  # it listens nowhere
    return tmp_path / "hosts"


def test_names_that_are_left_out_are_reported_once(hosts_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "MAX_BLOCKED", 5)
    lines = "".join(f"0.0.0.0 ad{number}.example\n" for number in range(8)) + "192.168.56.20 shop.test\n"
    sentence = "the hosts file has more names than vmdns keeps: 3 of them are left out"

    write = hosts_file.write_text

    async def main() -> None:
        log: list[str] = []
        app = App(Config(), hosts_file.with_name("none.toml"), {}, log.append)
        write(lines)
        for _ in range(2):
            await app._read_hosts()
        assert log == [sentence]
        status = app.status()
        assert sentence in status["problems"]
        (source,) = [one for one in status["sources"] if one["name"] == "hosts"]
        assert (source["state"], source["detail"], source["facts"]) == ("failing", sentence, 6)
        assert to_wire("shop.test") in app.store.hosts.outside
        kept = app.store.hosts
        await app._read_hosts()
        assert app.store.hosts is kept
        write("192.168.56.20 shop.test\n")
        await app._read_hosts()
        assert log == [sentence]
        assert app.status()["problems"] == []
        app.store.close()

    asyncio.run(main())


def test_sighup_reads_the_hosts_file_and_the_name_servers_under_an_unchanged_configuration(
    hosts_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Upstreams((Upstream("192.0.2.1"),))
    monkeypatch.setattr(file_reload, "read_upstreams", lambda: found)
    write = hosts_file.write_text

    async def main() -> None:
        app = App(Config(), hosts_file.with_name("none.toml"), {}, lambda _: None)
        await app._read_hosts()
        assert not app.store.hosts.count
        write("192.168.56.20 shop.test\n")
        app.reload()
        await app._tasks.finished()
        assert to_wire("shop.test") in app.store.hosts.outside
        assert app.upstreams.found is found
        app.store.close()

    asyncio.run(main())


@pytest.mark.parametrize("rewritten", ["mdns = false\n", ""])
def test_an_empty_file_is_read_again_before_it_counts(
    rewritten: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor may empty the file before it writes; a file that stays empty is a configuration."""
    file = tmp_path / "vmdns.toml"
    file.write_text("")
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        file.write_text(rewritten)

    monkeypatch.setattr(file_reload.time, "sleep", wait)
    applied: list[Config] = []
    reload = ConfigReload(Config(wildcards=False), file, {}, applied.append, lambda line: None)
    asyncio.run(reload.read())
    assert waits == [file_reload.REWRITE_SECONDS]
    assert (reload.config.mdns, reload.config.wildcards) == (not rewritten, True)
    assert applied == [Config(wildcards=False)]
