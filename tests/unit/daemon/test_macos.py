"""What `vmdns run` says of refused packets, once, and of running as root on macOS."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from vmdns.config import Config
from vmdns.daemon import process
from vmdns.daemon.app import App
from vmdns.daemon.listen_addresses import ListenAddresses


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(ListenAddresses, "want", lambda *_: None)  # it listens nowhere
    return []


def test_refused_packets_are_logged_once(log: list[str], tmp_path: Path) -> None:
    async def main() -> None:
        app = App(Config(), tmp_path / "none.toml", {}, log.append)
        app._configure()
        assert (log, app.status()["refusal"]) == ([], "")
        app._server.udp.refusal = "it is refused", time.monotonic()
        app._configure()
        app._configure()
        assert (log, app.status()["refusal"]) == (["it is refused"], "it is refused")
        app._server.udp.refusal = "it is refused", time.monotonic() - process.REFUSAL_SECONDS - 1
        assert app.status()["refusal"] == "", "what was long ago is over"
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
