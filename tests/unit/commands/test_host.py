"""`vmdns host` and `vmdns hosts` as commands: what they print, change and refuse, on files of the test's own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import pytest

from tests.unit.commands.test_doctor import udp_server
from tests.unit.test_cli import ANSWERS, Fake, Run, run, serving, user
from tests.unit.test_cli_format import NAMES, STATUS
from vmdns.commands import CommandError
from vmdns.commands import host as hosting
from vmdns.commands.host import answers, listen_address
from vmdns.host import hosts_block as hostsfile
from vmdns.host import system_settings
from vmdns.host.elevation import ElevationDenied
from vmdns.host.plan import JournalEntry
from vmdns.host.resolver import SETTINGS, open_journal
from vmdns.host.system_settings import ListenAddress, SystemFile

__all__ = ["run", "user"]
TEXT = "# what it is for\nDNS=127.0.0.1\n"
ROOT = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="rights are root's here")


def listener(address: str, port: int, state: str = "listening") -> dict[str, Any]:
    return {"address": address, "port": port, "state": state, "detail": ""}


@pytest.mark.parametrize(
    ("listeners", "at"),
    [
        (
            [listener("::1", 53), listener("192.168.56.1", 53), listener("127.0.0.1", 5300)],
            ListenAddress("127.0.0.1", 5300),
        ),
        ([listener("127.0.0.1", 53, "failed"), listener("192.168.56.1", 53)], ListenAddress("192.168.56.1", 53)),
        ([listener("::1", 53), listener("192.168.56.1", 5300)], ListenAddress("192.168.56.1", 5300)),
        ([listener("::1", 5353)], ListenAddress("::1", 5353)),
    ],
)
def test_where_vmdns_is_asked(listeners: list[dict[str, Any]], at: ListenAddress) -> None:
    assert listen_address({"listeners": listeners}) == at


def test_where_vmdns_is_asked_if_none_runs_or_listens() -> None:
    assert listen_address(None) == ListenAddress("127.0.0.1", 53)
    with pytest.raises(CommandError, match="listens nowhere"):
        listen_address({"listeners": [listener("127.0.0.1", 53, "failed")]})


@pytest.fixture
def wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which one file is wanted."""
    file = tmp_path / "vmdns.conf"

    class File(SystemFile):
        kind = "file"

    def plan(whole: bool, at: ListenAddress, zones: Any) -> tuple[list[tuple[File, str]], list[str]]:
        return [(File(str(file)), TEXT.replace("127.0.0.1", at.short))], ["a note"]

    monkeypatch.setattr(hosting, "plan_resolver", plan)
    monkeypatch.setitem(SETTINGS, "file", File)
    return file


def test_the_plan_changes_nothing(run: Run, wanted: Path) -> None:
    status, out, err = run("host")
    assert (status, err, wanted.exists()) == (0, "", False)
    assert out.splitlines()[0] == f"1. write {wanted}: what it is for"
    assert out.splitlines()[-2:] == ["- a note", "Do it with: vmdns host --apply"]
    status, out, err = run("host", "--json")
    found = json.loads(out)
    assert (found["done"], found["steps"][0]["after"]) == (False, TEXT)


@ROOT
def test_applied_and_undone(run: Run, wanted: Path) -> None:
    with serving(Fake({"status": {**STATUS, "listeners": [listener("127.0.0.1", 5300)]}})):
        status, out, _ = run("host", "--apply")
        assert (status, out.splitlines()) == (0, [f"write {wanted}: what it is for", "- a note"])
        assert wanted.read_text() == TEXT.replace("127.0.0.1", "127.0.0.1:5300")
        assert run("host", "--apply") == (0, "Nothing to do.\n", "")
    assert run("host", "--undo") == (0, f"remove {wanted}\n", "")
    assert not wanted.exists()
    assert run("host", "--undo") == (0, "Nothing to do.\n", "")


@ROOT
def test_undo_tells_what_it_leaves(run: Run, wanted: Path) -> None:
    assert run("host", "--apply")[0] == 0
    wanted.write_text("another\n")
    status, out, _ = run("host", "--undo", "--json")
    assert status == 0
    assert "changed by someone else" in json.loads(out)["left"][0]
    assert wanted.read_text() == "another\n"


def test_everything_takes_a_server(run: Run, wanted: Path) -> None:
    status, out, err = run("host", "--whole", "--apply")
    assert (status, out) == (3, "")
    assert err.startswith("vmdns: no vmdns runs here")
    assert not wanted.exists()


def test_a_missing_right_is_one_sentence(run: Run, wanted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> None:
        raise ElevationDenied("this needs root; run: sudo sh -c 'a long script'")

    monkeypatch.setattr(SystemFile, "write", denied)
    status, _, err = run("host", "--apply")
    assert (status, wanted.exists()) == (1, False)
    how = "; run: sudo" if os.name == "nt" else ", and there is no sudo or no terminal"  # as it was raised
    assert err.startswith(f"vmdns: this needs root{how}")
    assert run("host", "--undo") == (0, "Nothing to do.\n", "")


def test_a_journal_of_another_version_is_said(run: Run) -> None:
    open_journal().put(JournalEntry("host", "teapot", "x", None, 1))
    status, _, err = run("host", "--undo")
    assert status == 1
    assert "the journal names teapot x" in err


@pytest.mark.parametrize(
    ("flags", "rcode", "good"),
    [(dns.flags.AA, 0, True), (0, 0, False), (dns.flags.AA, 3, False), (dns.flags.AA, 5, False)],
)
def test_only_an_owner_of_local_is_taken_for_vmdns(
    flags: int, rcode: int, good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(response: dns.message.Message) -> None:
        response.flags |= flags
        response.set_rcode(dns.rcode.Rcode(rcode))

    with udp_server(change) as port:
        monkeypatch.setattr(system_settings, "DNS_PORT", port)
        assert answers("127.0.0.1", 0) is good


# -- the hosts file ----------------------------------------------------------------------------------------------

WEB = {"name": "web.local", "also": ["web.vm.internal"], "here": ["192.168.56.101"], "uuid": "5f0c"}
BLOCK = "192.168.56.101\tweb.local web.vm.internal"


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "hosts"
    file.write_bytes(b"127.0.0.1 localhost\r\n")
    monkeypatch.setattr("vmdns.commands.host.hosts_path", lambda: file)
    return file


def test_the_block_is_shown_written_and_taken_out(run: Run, hosts: Path) -> None:
    before = hosts.read_bytes()
    with serving(Fake({"names": {**NAMES, "names": [WEB]}})):
        assert run("hosts")[1].splitlines() == [
            BLOCK.replace("\t", "  "),
            "",
            f"These names would be written to {hosts}.",
        ]
        assert hosts.read_bytes() == before
        assert run("hosts", "--apply")[1].splitlines()[-1] == f"These names are in {hosts}."
        assert hostsfile.read(hosts) == [BLOCK]
        assert json.loads(run("hosts", "--json")[1])["block"] == [BLOCK]
    status, out, _ = run("hosts", "--undo")
    assert (status, out) == (0, f"There are no lines of vmdns in {hosts}.\n")
    assert hosts.read_bytes() == before


def test_the_block_is_kept_until_vmdns_ends(run: Run, hosts: Path) -> None:
    with serving(Fake({**ANSWERS, "names": {**NAMES, "names": [WEB]}})):
        status, out, err = run("hosts", "--keep")
    assert (status, err) == (3, "vmdns: vmdns has ended\n")
    # Two looks, of which the second tells nothing new.
    assert out.splitlines() == [f"1 line of names in {hosts}", f"the names are taken out of {hosts}"]
    assert hosts.read_bytes() == b"127.0.0.1 localhost\r\n"
