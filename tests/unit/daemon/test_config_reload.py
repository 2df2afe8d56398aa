"""What a changed configuration file does while vmdns runs."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from vmdns.config import Config, Options
from vmdns.daemon import config_reload
from vmdns.daemon.config_reload import ConfigReload


def test_a_file_that_an_editor_has_emptied_is_read_when_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "vmdns.toml"
    file.write_text("")
    waited = threading.Event()

    def write(seconds: float) -> None:
        assert seconds == config_reload.REWRITE_SECONDS
        file.write_text("mdns = false\n")
        waited.set()

    monkeypatch.setattr(config_reload.time, "sleep", write)
    applied: list[Config] = []
    log: list[str] = []
    reload = ConfigReload(Config(wildcards=False), file, Options(), applied.append, log.append)
    asyncio.run(reload.read())
    assert waited.is_set()
    assert (reload.config.mdns, reload.config.wildcards) == (False, True)
    assert applied == [Config(wildcards=False)]


def test_an_empty_file_is_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "vmdns.toml"
    file.write_text("")
    monkeypatch.setattr(config_reload.time, "sleep", lambda seconds: None)
    reload = ConfigReload(Config(mdns=False), file, Options(), lambda before: None, lambda line: None)
    asyncio.run(reload.read())
    assert reload.config == Config()
