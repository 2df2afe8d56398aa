"""One call of VBoxManage: its locale, its limits, its failures."""

from __future__ import annotations

import contextlib
import os

import pytest

from tests.unit.sources.fakevboxmanage import FakeVBoxManage
from vmdns.sources import vboxmanage
from vmdns.sources.vboxmanage import VBoxManage, VBoxManageError, choose_locale

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the fake is a script")


@pytest.fixture
def fake(tmp_path) -> FakeVBoxManage:
    return FakeVBoxManage(tmp_path / "program")


def test_output_environment_and_input(fake) -> None:
    fake.plays("list vms", '"리눅스" {x}\r\n')
    call = VBoxManage(fake.path, {**os.environ, "LC_ALL": "C", "VBOX_USER_HOME": "/x"})
    assert call("list", "vms") == '"리눅스" {x}\r\n'
    (asked,) = fake.log()
    assert (asked.words, asked.home, asked.input) == ("list vms", "/x", "")
    assert asked.locale.lower().replace("-", "").endswith("utf8")


def test_failure_has_its_text_and_code(fake) -> None:
    errors = (
        "Oracle VirtualBox Command Line Management Interface\n\n"
        "VBoxManage: error: Could not find a registered machine with UUID {x}\n"
        "VBoxManage: error: Details: code VBOX_E_OBJECT_NOT_FOUND (0x80bb0001), component VirtualBoxWrap\n"
    )
    fake.plays("showvminfo x", "name=", err=errors, status=1)
    with pytest.raises(
        VBoxManageError, match=r"showvminfo x: Could not find a registered machine with UUID \{x\}"
    ) as failure:
        VBoxManage(fake.path, os.environ)("showvminfo", "x")
    assert failure.value.code == 0x80BB0001


def test_hanging_is_a_failure_and_leaves_no_process(fake) -> None:
    # Long enough for the script to start, so that it is the hanging that is cut off.
    fake.plays("list vms", "beginning", hangs=True)
    with pytest.raises(VBoxManageError, match=r"list vms: no answer in 1\.1 s"):
        VBoxManage(fake.path, os.environ, (0.9, 1.1))("list", "vms")
    assert len(fake.log()) == 2
    for asked in fake.log():
        with pytest.raises(ProcessLookupError):
            os.kill(asked.pid, 0)


def test_hanging_once_is_got_over(fake) -> None:
    fake.plays("list vms", "all")
    fake.hangs_once("list vms")
    assert VBoxManage(fake.path, os.environ, (0.9, 60.0))("list", "vms") == "all"


def test_too_much_output(fake, monkeypatch) -> None:
    monkeypatch.setattr(vboxmanage, "MAX_BYTES", 1000)
    fake.plays("list vms", "x" * 1000)
    fake.plays("list dvds", "x" * 1001)
    call = VBoxManage(fake.path, os.environ)
    assert len(call("list", "vms")) == 1000
    with pytest.raises(VBoxManageError, match="more than 1000 bytes"):
        call("list", "dvds")


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


def test_a_machine_without_the_locale_command(fake, tmp_path) -> None:
    fake.plays("a")
    call = VBoxManage(fake.path, {"PATH": str(tmp_path)})
    with contextlib.suppress(VBoxManageError):  # the script needs its PATH too
        call("a")
    assert fake.log()[0].locale in ("C.UTF-8", "en_US.UTF-8")
