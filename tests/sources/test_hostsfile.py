"""The hosts file, as people, installers and old editors leave it."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmdns.core.model import HostName
from vmdns.sources import hostsfile
from vmdns.sources.hostsfile import parse_hosts, path, read_hosts


def brief(data: bytes) -> list[tuple[str, str, bool]]:
    found = parse_hosts(data)
    assert list(found) == [f"hosts:{one.name} {one.address}" for one in found.values()]
    return [(one.name, one.address, one.canonical) for one in found.values()]


NAS = ("nas", "192.168.1.9", True)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"192.168.1.9 nas\n", [NAS]),
        (b"192.168.1.9 nas", [NAS]),
        (b"  192.168.1.9\t nas  \n", [NAS]),
        (b"192.168.1.9 NAS.\n", [NAS]),
        (b"192.168.1.9 nas a\tb.home\n", [NAS, ("a", "192.168.1.9", False), ("b.home", "192.168.1.9", False)]),
        (b"192.168.1.9 nas # the big one\n# 192.168.1.8 old\n#\n", [NAS]),
        (b"192.168.1.9 nas#x\n", [NAS]),
        (b"192.168.1.9 nas\n192.168.1.9 other nas\n", [NAS, ("other", "192.168.1.9", True)]),
        (b"192.168.1.9 nas\n192.168.1.10 nas\n", [NAS, ("nas", "192.168.1.10", True)]),
        # Windows: CRLF and a byte order mark.
        (b"\xef\xbb\xbf192.168.1.9 nas\r\n\r\n# x\r\n10.0.0.1 a\r\n", [NAS, ("a", "10.0.0.1", True)]),
        # IPv6, with the scope that macOS writes.
        (b"::1 localhost ip6-localhost\n", [("localhost", "::1", True), ("ip6-localhost", "::1", False)]),
        (b"FD00::0009 nas\n", [("nas", "fd00::9", True)]),
        (b"fe80::1%lo0 localhost\n", [("localhost", "fe80::1", True)]),
        # Latin-1 spoils the name it stands in, not its neighbours.
        (b"192.168.1.9 nas # gr\xfc\xdfe\n10.0.0.1 b\xfcro a\n", [NAS, ("a", "10.0.0.1", False)]),
        ("10.0.0.1 büro a\n".encode(), [("a", "10.0.0.1", False)]),
        # Only a line's end ends a comment.
        *[
            (f"# x{odd}10.0.0.1 bank.example\n192.168.1.9 nas\n".encode(), [NAS])
            for odd in ("\x0b", "\x0c", "\x1c", "\x1e", "\x85", "\u2028", "\u2029")
        ],
        # Names of Windows and of service records.
        (b"10.0.0.1 my_pc _dmarc.x\n", [("my_pc", "10.0.0.1", True), ("_dmarc.x", "10.0.0.1", False)]),
    ],
)  # fmt: skip
def test_lines(data: bytes, expected: list[tuple[str, str, bool]]) -> None:
    assert brief(data) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"192.168.1.9",
        b"nas 192.168.1.9",
        b"999.1.1.1 x",
        b"192.168.1 x",
        b"010.0.0.1 x",
        b"0x7f.1 x",
        b"1 x",
        b"1.2.3.4/24 x",
        b"[::1] x",
        b"1.2.3.4 -x",
        b"1.2.3.4 x-",
        b"1.2.3.4 x..y",
        b"1.2.3.4 .",
        b"1.2.3.4 *.x",
        b"1.2.3.4 a/b",
        b"1.2.3.4 " + b"a." * 127 + b"a",
        b"1.2.3.4 " + b"-" * 100_000,
        b"\0" * 1000,
        b"1.2.3.4\0x",
        "127.0.0.1 nas".encode("utf-16-le"),
        b"\xff\xfe\xfd",
        b"x" * 1_000_000,
    ],
    ids=lambda line: repr(line[:16]),
)
def test_a_line_that_makes_no_sense_is_left_out(line: bytes) -> None:
    assert brief(line + b"\n192.168.1.9 nas\n") == [NAS]


def test_no_more_names_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hostsfile, "MAX_NAMES", 10)
    lines = b"".join(b"10.0.0.1 a%d b%d\n" % (n, n) for n in range(100))
    assert len(parse_hosts(lines)) == 10
    assert len(parse_hosts(lines.replace(b"\n10.0.0.1", b""))) == 10


@given(st.one_of(st.binary(max_size=200), st.text(alphabet="1.:%# \t\r\nax-_fé\u2028", max_size=80).map(str.encode)))
def test_any_bytes_give_names_that_dns_can_carry(data: bytes) -> None:
    for name, address, _ in brief(data):
        assert name == name.lower()
        assert name.isascii()
        assert not set(name) & set(" \t\r\n#/")
        assert "%" not in address


def test_the_file(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    assert read_hosts(file) == {}
    file.write_bytes(b"192.168.1.9 nas\n")
    assert read_hosts(file) == {"hosts:nas 192.168.1.9": HostName("nas", "192.168.1.9", True)}
    with pytest.raises(OSError):
        read_hosts(tmp_path)


def test_where_it_is() -> None:
    assert path("linux", {}) == path("darwin", {"SystemRoot": "x"}) == Path("/etc/hosts")
    assert PureWindowsPath(path("win32", {"SystemRoot": r"D:\Win"})).parts[-4:] == (
        "System32",
        "drivers",
        "etc",
        "hosts",
    )
    assert str(path("win32", {})).startswith(r"C:\Windows")
