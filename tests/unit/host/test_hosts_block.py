"""The block in the hosts file: what gets in, what stays outside byte for byte, and the program that writes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmdns.host import hosts_block
from vmdns.host.hosts_block import lines, read, replaced, write
from vmdns.sources.hosts_file import parse_hosts
from vmdns.state.static_records import BLOCK_BEGIN, BLOCK_END

WEB = "192.168.56.101\tweb.local web.vm.internal"
DB = "192.168.56.102\tdb.local"


def entry(**changed: Any) -> dict[str, Any]:
    one = {"name": "web.local", "also": ["web.vm.internal"], "here": ["192.168.56.101"], "uuid": "5f0c"}
    return {**one, **changed}


@pytest.mark.parametrize(
    ("one", "found"),
    [
        (entry(), [WEB]),
        (entry(here=[]), []),
        (entry(here=["192.168.56.101", "2001:db8::5"]), [WEB, WEB.replace("192.168.56.101", "2001:db8::5")]),
        (entry(also=["5f0c.local"]), ["192.168.56.101\tweb.local"]),
        (entry(name="web\n127.0.0.1 bank.example"), ["192.168.56.101\tweb.vm.internal"]),
        (entry(name="web#.local", also=[]), []),
        (entry(here=["192.168.56.101\n1.2.3.4"]), []),
    ],
)
def test_the_lines_of_a_name(one: dict[str, Any], found: list[str]) -> None:
    assert lines([one]) == found


@pytest.mark.parametrize(
    "data",
    [
        b"", b"127.0.0.1 localhost", b"127.0.0.1 localhost\r\n::1 localhost\r\n",
        b"127.0.0.1 localhost\r\n::1 localhost", b"\xef\xbb\xbf# caf\xe9 \xff\n1.2.3.4 a\tb\n\n\n",
        b"# vmdnsx: begin\n",
    ],
)  # fmt: skip
def test_put_in_changed_and_taken_out(tmp_path: Path, data: bytes) -> None:
    once = replaced(data, [WEB])
    assert once.startswith(data)
    twice = replaced(once, [WEB, DB])
    (tmp_path / "hosts").write_bytes(twice)
    assert read(tmp_path / "hosts") == [WEB, DB]
    assert replaced(twice, [WEB]) == once
    assert replaced(once, [WEB]) == once
    assert replaced(twice, None) == data
    assert replaced(data, None) == data
    end = b"\r\n" if b"\r\n" in data else b"\n"
    assert all(row.endswith(end) for row in once[len(data) :].splitlines(keepends=True) if row.strip())


@given(st.lists(st.sampled_from([b"\n", b"\r\n", b"\r", b"a 1", b"#", b"\xff", b"\t"])).map(b"".join))
def test_whatever_the_file_is(data: bytes) -> None:
    assert replaced(replaced(data, [WEB]), None) == data


def test_what_follows_the_block_stays_behind_it() -> None:
    data = replaced(b"1.2.3.4 a", [WEB]) + b"5.6.7.8 b\r\n"
    assert replaced(data, None) == b"1.2.3.4 a\n5.6.7.8 b\r\n"
    assert replaced(replaced(data, []), [WEB]).endswith(b"5.6.7.8 b\r\n")


@pytest.mark.parametrize(
    "line", ["1.2.3.4\ta\n5.6.7.8\tb", "1.2.3.4\ta\r", "1.2.3.4\tä", "1.2.3.4\ta # b", "x\ta", "1.2.3.4 a", "1.2.3.4\t"]
)
def test_nothing_else_gets_in(line: str) -> None:
    with pytest.raises(ValueError):
        replaced(b"", [line])


@pytest.mark.parametrize("data", [f"{BLOCK_BEGIN}\n{WEB}\n".encode(), "127.0.0.1 localhost\n".encode("utf-16")])
def test_a_file_that_makes_no_sense_is_left(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "hosts"
    file.write_bytes(data)
    with pytest.raises(OSError, match="is left as it is"):
        write(file, [DB])
    assert file.read_bytes() == data


def test_a_file_that_is_changed_back_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "hosts"
    file.write_bytes(b"127.0.0.1 localhost\n")
    monkeypatch.setattr(hosts_block, "replace_file", lambda *_: None)
    with pytest.raises(OSError, match="was changed back at once"):
        write(file, [WEB])


def test_our_own_block_is_not_a_source() -> None:
    data = replaced(b"1.2.3.4 nas\n", [WEB]) + b"5.6.7.8 printer\n"
    assert sorted(one.name for one in parse_hosts(data)) == ["nas", "printer"]
    # Lines that only look like ours hide nothing.
    assert [one.name for one in parse_hosts(f"{BLOCK_END}\n1.2.3.4 nas\n".encode())] == ["nas"]


@pytest.mark.skipif(os.name != "posix", reason="modes and links as POSIX has them")
def test_the_file_keeps_its_mode_and_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.write_bytes(b"127.0.0.1 localhost\n")
    real.chmod(0o640)
    link = tmp_path / "hosts"
    link.symlink_to("real")
    write(link, [WEB])
    inode = real.stat().st_ino
    write(link, [WEB])
    assert real.stat().st_ino == inode, "the same block is not written again"
    assert (link.is_symlink(), real.stat().st_mode & 0o777) == (True, 0o640)
    write(link, None)
    assert real.read_bytes() == b"127.0.0.1 localhost\n"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["hosts", "real"]


@pytest.mark.skipif(sys.platform != "win32", reason="attributes and locks of Windows")
def test_a_file_of_windows_that_is_read_only_or_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import win32con
    import win32file

    file = tmp_path / "hosts"
    file.write_bytes(b"\xef\xbb\xbf127.0.0.1 localhost # caf\xe9\r\n")
    before = file.read_bytes()
    file.chmod(0o444)
    write(file, [WEB])
    assert read(file) == [WEB]
    assert not file.stat().st_mode & 0o200, "it is read-only again"
    # A virus scanner that lets nobody else open it, for longer than vmdns waits, and then no more.
    monkeypatch.setattr(hosts_block, "BUSY_SECONDS", 0.3)
    scanner = win32file.CreateFile(str(file), win32con.GENERIC_READ, 0, None, win32con.OPEN_EXISTING, 0, None)
    with pytest.raises(OSError, match="a virus scanner most likely, has it open"):
        write(file, None)
    monkeypatch.setattr(hosts_block.time, "sleep", lambda seconds: scanner.Close())
    write(file, None)
    file.chmod(0o666)
    assert file.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["hosts"]


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_the_block_goes_when_its_keeper_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_bytes(b"127.0.0.1 localhost\n")
    program = f"""
import pathlib, time
from vmdns.host.hosts_block import open_writer
writer = open_writer(pathlib.Path({str(file)!r}), keep=False)
writer.ask([{WEB!r}])
print(writer.pid, flush=True)
time.sleep(60)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as keeper:
        assert keeper.stdout is not None
        assert keeper.stderr is not None
        child = int(keeper.stdout.readline())
        assert read(file) == [WEB]
        os.kill(child, signal.SIGINT)  # as Ctrl-C does to all of a terminal's programs
        keeper.kill()
        # The child has this pipe too: its end says that it is done.
        assert keeper.stderr.read() == ""
    assert file.read_bytes() == b"127.0.0.1 localhost\n"
