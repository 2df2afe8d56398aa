"""Names: what VirtualBox lets people type, and what DNS can carry (facts of VirtualBox: any text but NUL)."""

from __future__ import annotations

import re

import dns.name
import idna
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from vmdns.dns.name import convert_utf8_labels, join_labels, split_labels, to_label, to_text, to_wire

# RFC 1123 section 2.1: letters, digits and hyphens, a hyphen neither first nor last, at most 63.
HOST_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # What people type.
        ("web", "web"), ("Web", "web"), ("Web Server", "web-server"), ("web_01", "web-01"),
        ("web.local", "web-local"), ("  web  ", "web"), ("web (1)", "web-1"), ("web [copy]", "web-copy"),
        ("Web #1 & co", "web-1-co"), ("win10+office", "win10-office"), ("foo,bar", "foo-bar"),
        ("user@host", "user-host"), ("100%", "100"), ("2024", "2024"), ("a--b", "a--b"),
        ("ccb33507-228b-4ba7-ac5b-0bcd78aded18", "ccb33507-228b-4ba7-ac5b-0bcd78aded18"),
        # Names that would mean something else.
        ("www.google.com", "www-google-com"), ("127.0.0.1", "127-0-0-1"), ("*", ""), ("*.local", "local"),
        ("_acme-challenge", "acme-challenge"), ("-web-", "web"), ("--help", "help"),
        ("../../etc/passwd", "etc-passwd"), ("C:\\vms\\web", "c-vms-web"), ('quo"te', "quo-te"),
        ("`reboot`", "reboot"), ("$(reboot)", "reboot"),
        ("<img src=x onerror=alert(1)>", "img-src-x-onerror-alert-1"),
        ("x\n127.0.0.1 bank.com", "x-127-0-0-1-bank-com"), ("new\r\nline\ttab", "new-line-tab"),
        ("\x1b[31mred", "31mred"), ("nul\x00byte", "nul-byte"),
        # Nothing that can be carried.
        ("", ""), (".", ""), ("...", ""), ("---", ""), ("😀", ""), ("\ud800", ""), ("\u0301", ""),
        # Other scripts, by IDNA 2008 with UTS 46.
        ("리눅스", "xn--pd1b38l32h"), ("리눅스 서버", "xn----4g8e09qj5c81hfpc"), ("日本語", "xn--wgv71a119e"),
        ("Пример", "xn--e1afmkfd"), ("مثال", "xn--mgbh0fb"), ("café", "xn--caf-dma"), ("CAFE\u0301", "xn--caf-dma"),
        ("straße", "xn--strae-oqa"), ("web😀", "web"), ("web😀db", "web-db"), ("web\u200d\u200b01", "web01"),
        ("\u202egnp.exe", "gnp-exe"), ("１２３ｗｅｂ", "123web"), ("a。b", "a-b"), ("½", "1-2"), ("ﬁle", "file"),
        ("\u212a", "k"),
        # What looks like IDNA already.
        ("xn--caf-dma", "xn--caf-dma"), ("XN--CAF-DMA", "xn--caf-dma"), ("xn--99999999", "xn-99999999"),
        ("xn--", "xn"), ("ab--cd", "ab-cd"),
        # Too long.
        ("a" * 63, "a" * 63), ("a" * 64, "a" * 63), ("a" * 255, "a" * 63), ("a" * 62 + "-b", "a" * 62),
        ("xn--" + "a" * 80, "xn-" + "a" * 60),
    ],
)  # fmt: skip
def test_label(name: str, expected: str) -> None:
    assert to_label(name) == expected


@pytest.mark.parametrize("name", ["é" * 80, "리" * 255, "서버 " * 50, "ß" * 63, "日本" * 500])
def test_a_long_name_in_another_script_is_cut_between_its_characters(name: str) -> None:
    made = to_label(name)
    assert 50 < len(made) <= 63
    assert name.replace(" ", "-").startswith(idna.ulabel(made))


NAMES = st.one_of(
    st.text(max_size=80),
    st.text(alphabet="aZ09-_. \u0301éßא١ا리\u200d\ud800😀½xn", max_size=90),
    st.from_regex(r"(?i)xn--[a-z0-9-]{0,70}", fullmatch=True),
)


@given(NAMES)
@example("-" * 4000)
@example("a._-" * 1000)
@example("א1" * 600)
def test_a_label_is_always_a_host_label_and_its_own_label(name: str) -> None:
    made = to_label(name)
    assert made == "" or HOST_LABEL.match(made)
    assert to_label(made) == made
    assert made[2:4] != "--" or idna.ulabel(made)


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("", b"\0"),
        (".", b"\0"),
        ("local", b"\5local\0"),
        ("LoCaL.", b"\5local\0"),
        ("web.vm.internal", b"\3web\2vm\x08internal\0"),
        ("*.local", b"\1*\5local\0"),
        ("리눅스", b"\x09" + "리눅스".encode() + b"\0"),
        ("a" * 63, b"\x3f" + b"a" * 63 + b"\0"),
    ],
)
def test_to_wire(text: str, wire: bytes) -> None:
    assert to_wire(text) == wire


@pytest.mark.parametrize(
    "text", ["..", "a..b", ".a", "a" * 64, "é" * 32, ".".join(["a" * 63] * 4), "a." * 128, "\ud800"]
)
def test_to_wire_refuses(text: str) -> None:
    with pytest.raises(ValueError):
        to_wire(text)


def test_the_longest_name_has_255_bytes() -> None:
    longest = ".".join(["a" * 63] * 3 + ["a" * 61])
    assert len(to_wire(longest)) == 255
    with pytest.raises(ValueError, match="255"):
        to_wire(longest + "a")


WIRE_NAMES = (
    st.lists(st.binary(min_size=1, max_size=63), max_size=8).map(join_labels).filter(lambda wire: len(wire) <= 255)
)


@given(WIRE_NAMES)
def test_wire_text_and_labels_agree_with_dnspython(wire: bytes) -> None:
    theirs = dns.name.from_wire(wire, 0)[0]
    assert join_labels(split_labels(wire)) == wire
    assert to_text(wire) == (theirs.to_text(omit_final_dot=True) if len(wire) > 1 else ".")
    assert dns.name.from_text(to_text(wire)).to_wire() == wire


def test_text_has_no_byte_that_a_terminal_or_a_line_file_would_obey() -> None:
    every = join_labels([bytes(range(at, at + 32)) for at in range(0, 256, 32)])
    assert re.fullmatch(r"[!-~]+", to_text(every))
    assert "\\027[31m" in to_text(b"\x05\x1b[31m\0")


@pytest.mark.parametrize("name", ["리눅스", "Café", "ÀÉ", "日本語 web", "cafe\u0301"])
def test_a_raw_utf8_label_means_the_a_label(name: str) -> None:
    raw = join_labels([name.encode(), b"local"])
    assert convert_utf8_labels(raw) == to_wire(f"{to_label(name)}.local")


@pytest.mark.parametrize("wire", [b"\3web\5local\0", b"\0", b"\1\xff\0", b"\4\xf0\x9f\x98\x80\0"])
def test_no_utf8_label_to_turn(wire: bytes) -> None:
    assert convert_utf8_labels(wire) is None


@given(WIRE_NAMES)
def test_unicode_name_gives_a_name_or_none(wire: bytes) -> None:
    made = convert_utf8_labels(wire)
    if made is not None:
        assert not wire.isascii()
        assert made.isascii()
        assert len(made) <= 255
        assert dns.name.from_wire(made, 0)[0].to_wire() == made
