"""What `vmdns run` says of macOS: once that packets to the local network are refused, and that it runs as root."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from vmdns.config import Config
from vmdns.daemon import process
from vmdns.daemon.app import App
from vmdns.daemon.listen_addresses import ListenAddresses
from vmdns.state.findings import LOCAL_NETWORK


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(ListenAddresses, "want", lambda *_: None)  # it listens nowhere
    return []


def test_refused_packets_are_logged_once(log: list[str], tmp_path: Path) -> None:
    async def main() -> None:
        app = App(Config(), tmp_path / "none.toml", {}, log.append)
        app._configure()
        assert (log, app.status()["local_network_denied"]) == ([], False)
        app._server.udp.local_network_denied = True
        app._configure()
        app._configure()
        assert (log, app.status()["local_network_denied"]) == ([LOCAL_NETWORK], True)
        app.store.close()

    asyncio.run(main())


@pytest.mark.parametrize("root", [True, False])
def test_root_is_warned(log: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: bool) -> None:
    monkeypatch.setattr(process, "is_mac_root", lambda: root)

    async def main() -> None:
        app = App(Config(), tmp_path / "none.toml", {}, log.append)
        assert await app.run(asyncio.Event()) == 1

    asyncio.run(main())
    assert (process.MAC_ROOT in log) == root
