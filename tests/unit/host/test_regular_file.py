"""Only regular files are read, up to a bound, and no read waits."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vmdns import config
from vmdns.dns.upstreams import Upstream
from vmdns.files import read_regular
from vmdns.host import hosts_block, resolver_linux, system_settings, upstreams_linux
from vmdns.host.folders import has_vms
from vmdns.host.plan import Journal
from vmdns.host.resolver_linux import OwnResolvConf, ResolvConf
from vmdns.host.virtualbox_dhcp import VirtualBox
from vmdns.sources.hosts_file import read_hosts

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither FIFOs nor devices among files")


def test_a_file_is_read_up_to_its_bound_and_one_byte_more(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")
    assert read_regular(file, 20) == b"0123456789"
    assert read_regular(file, 4) == b"01234"
    (tmp_path / "link").symlink_to(file)
    assert read_regular(tmp_path / "link", 20) == b"0123456789"
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none", 100)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "any file": ("file", lambda path: read_regular(path, 100)),
    "configuration": ("vmdns.toml", lambda path: config.load(path)),
    "hosts file": ("hosts", read_hosts),
    "hosts file, to write names into": ("hosts", lambda path: hosts_block.write(path, ["# x"])),
    "hosts file, the names in it": ("hosts", hosts_block.read),
    "resolv.conf": ("etc/resolv.conf", lambda path: upstreams_linux.read_files(path.parent.parent)),
    "resolv.conf, to change it": ("resolv.conf", lambda path: ResolvConf(str(path)).read()),
    "journal": ("journal.json", lambda path: Journal(path).entries()),
    "file of the system": ("x", lambda path: OwnResolvConf(str(path)).read()),
    "VirtualBox.xml": ("VirtualBox.xml", lambda path: VirtualBox(path.parent, "", lambda *_: "").read_networks()),
}


@pytest.mark.parametrize("kind", ["fifo", "zero", "folder"])
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_waits_for_what_is_no_file(tmp_path: Path, kind: str, reader: str) -> None:
    name, read = READERS[reader]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if kind == "fifo":
        os.mkfifo(path)  # without a writer: an open that waits would never return
    elif kind == "folder":
        path.mkdir()
    elif reader == "resolv.conf, to change it":
        pytest.skip("a link is read as a link")
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises((OSError, config.ConfigError)):
        read(path)
    assert not has_vms(tmp_path)


def test_half_a_hosts_file_never_replaces_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts_block, "_MAX_BYTES", 20)
    (tmp_path / "hosts").write_text("127.0.0.1 localhost # and more\n")
    with pytest.raises(OSError, match="longer than"):
        hosts_block.write(tmp_path / "hosts", ["192.168.56.4 web.local"])
    assert (tmp_path / "hosts").read_text() == "127.0.0.1 localhost # and more\n"


@pytest.mark.parametrize(("module", "setting"), [(resolver_linux, ResolvConf), (system_settings, OwnResolvConf)])
def test_half_a_file_is_never_saved_to_be_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, setting: Callable[[str], Any]
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES" if module is resolver_linux else "_MAX_BYTES", 20)
    (tmp_path / "file").write_text("nameserver 192.0.2.1\nsearch lab.example\n")
    with pytest.raises(OSError, match="longer than"):
        setting(str(tmp_path / "file")).read()


def test_half_an_address_is_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "nameserver 192.0.2.5\nnameserver 192.0.2.100\n"
    monkeypatch.setattr(upstreams_linux, "MAX_BYTES", len(text) - 3)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text(text)
    assert upstreams_linux.read_files(tmp_path).default == (Upstream("192.0.2.5"),)
