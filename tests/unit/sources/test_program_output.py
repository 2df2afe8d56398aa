"""What other programs print is decoded by Windows' code pages there, in Python's UTF-8 mode too."""

from __future__ import annotations

import codecs
import locale
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmdns.files import decode_console, decode_text
from vmdns.sources import vboxmanage

SAMPLES = Path(__file__).parents[1] / "sources" / "samples" / "code-pages"


@pytest.mark.parametrize(("code_page", "name"), [("cp1252", "Café"), ("cp949", "서버")])
def test_vboxmanage_writes_the_systems_code_page(monkeypatch: pytest.MonkeyPatch, code_page: str, name: str) -> None:
    monkeypatch.setattr(locale, "getencoding", lambda: code_page)
    monkeypatch.setattr(locale, "getpreferredencoding", lambda do_setlocale=True: "utf-8")  # as in UTF-8 mode
    raw = (SAMPLES / f"list-vms-{code_page}.txt").read_bytes()
    assert name in vboxmanage.parse_vms(decode_text(raw.replace(b"\r\n", b"\n"), "win32")).values()


def test_utf_8_is_understood_everywhere() -> None:
    assert [decode_text("서버".encode(), system) for system in ("win32", "linux", "darwin")] == ["서버"] * 3


@pytest.fixture
def oem() -> Iterator[None]:
    """Python's codec `oem`, which Windows alone has, as on a French Windows (code page 850)."""

    def find(name: str) -> codecs.CodecInfo | None:
        return codecs.lookup("cp850") if name == "oem" else None

    codecs.register(find)
    yield
    codecs.unregister(find)


@pytest.mark.usefixtures("oem")
def test_console_programs_write_the_consoles_code_page() -> None:
    assert decode_console("Réseau é".encode("cp850"), "win32") == "Réseau é"


def test_console_programs_of_other_systems_write_utf_8() -> None:
    assert decode_console("Réseau".encode(), "linux") == "Réseau"
    assert decode_console(b"R\xe9seau", "darwin") == "R\ufffdseau"
