"""One call of VBoxManage: its locale, its limits, its failures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fakeprogram import write_program
from tests.program import assert_ends
from vmdns.sources import vboxmanage
from vmdns.sources.vboxmanage import VBoxManage, VBoxManageError, choose_locale

# Long enough for the program to start, so that it is the hanging that is cut off.
LIMIT = 3.0 if os.name == "nt" else 0.9


def written(folder: Path, *lines: str) -> Path:
    """A program with these lines of Python. `out` and `err` are binary streams, `words` the arguments."""
    head = "import os, sys, time", "out, err, words = sys.stdout.buffer, sys.stderr.buffer, sys.argv[1:]"
    return write_program(folder / "VBoxManage", "\n".join((*head, *lines)))


def test_output_environment_and_input(tmp_path: Path) -> None:
    show = "[*words, os.environ.get('LC_ALL', ''), os.environ['VBOX_USER_HOME'], sys.stdin.read(), '']"
    program = written(tmp_path, f"out.write('\\r\\n'.join({show}).encode())")
    call = VBoxManage(program, {**os.environ, "LC_ALL": "C", "VBOX_USER_HOME": "/x"})
    lines = call("list", "가 {x}")
    assert ("\r" in lines) == (os.name == "posix")  # VBoxManage for Windows ends its lines so
    words, name, locale, *rest = lines.replace("\r", "").split("\n")
    assert (words, name, rest) == ("list", "가 {x}", ["/x", "", ""])
    if os.name == "posix":
        assert locale.lower().replace("-", "").endswith("utf8")


def test_failure_has_its_text_and_code(tmp_path: Path) -> None:
    errors = (
        "Oracle VirtualBox Command Line Management Interface\n\n"
        "VBoxManage: error: Could not find a registered machine with UUID {x}\n"
        "VBoxManage: error: Details: code VBOX_E_OBJECT_NOT_FOUND (0x80bb0001), component VirtualBoxWrap\n"
    )
    program = written(tmp_path, "out.write(b'name=')", f"err.write({errors.encode()!r})", "sys.exit(1)")
    with pytest.raises(
        VBoxManageError, match=r"showvminfo x: Could not find a registered machine with UUID \{x\}"
    ) as failure:
        VBoxManage(program, os.environ)("showvminfo", "x")
    assert failure.value.code == 0x80BB0001


def test_hanging_is_a_failure_and_leaves_no_process(tmp_path: Path) -> None:
    log = tmp_path / "pids"
    program = written(
        tmp_path, f"print(os.getpid(), file=open({str(log)!r}, 'a'), flush=True)", "out.write(b'x')", "time.sleep(600)"
    )
    with pytest.raises(VBoxManageError, match=rf"list vms: no answer in {LIMIT + 0.2} s"):
        VBoxManage(program, os.environ, (LIMIT, LIMIT + 0.2))("list", "vms")
    first, second = map(int, log.read_text().split())
    for pid in (first, second):
        assert_ends(pid)


def test_hanging_once_is_got_over(tmp_path: Path) -> None:
    mark = tmp_path / "hung"
    program = written(
        tmp_path, f"if not os.path.exists({str(mark)!r}):", f" open({str(mark)!r}, 'w').close(); time.sleep(600)",
        "out.write(b'all')",
    )  # fmt: skip
    assert VBoxManage(program, os.environ, (LIMIT, 60.0))("list", "vms") == "all"


def test_too_much_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vboxmanage, "MAX_BYTES", 1000)
    call = VBoxManage(written(tmp_path, "out.write(b'x' * int(words[1]))"), os.environ)
    assert len(call("list", "1000")) == 1000
    with pytest.raises(VBoxManageError, match="more than 1000 bytes"):
        call("list", "1001")


@pytest.mark.parametrize(
    ("available", "platform", "expected"),
    [
        (["C", "C.utf8", "POSIX", "en_US.utf8"], "linux", "C.utf8"),
        (["C", "C.UTF-8", "POSIX"], "linux", "C.UTF-8"),
        (["C", "POSIX", "en_US.utf8", "ko_KR.utf8"], "linux", "en_US.utf8"),
        (["C", "POSIX", "ko_KR.euckr", "ko_KR.utf8"], "linux", "ko_KR.utf8"),
        (["C", "POSIX", "de_DE.UTF-8", "en_US.UTF-8", "en_US.ISO8859-1"], "darwin", "en_US.UTF-8"),
        (["C", "POSIX"], "linux", "C.UTF-8"),
        ([], "linux", "C.UTF-8"),
        ([], "darwin", "en_US.UTF-8"),
    ],
)
def test_utf8_locale(available, platform, expected) -> None:
    assert choose_locale(available, platform) == expected
    assert choose_locale(reversed(available), platform) == expected


@pytest.mark.skipif(os.name == "nt", reason="VBoxManage for Windows knows no locale")
def test_a_machine_without_the_locale_command(tmp_path: Path) -> None:
    call = VBoxManage(written(tmp_path, "out.write(os.environb[b'LC_ALL'])"), {"PATH": str(tmp_path)})
    assert call("a") in ("C.UTF-8", "en_US.UTF-8")
