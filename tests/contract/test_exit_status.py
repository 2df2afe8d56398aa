"""The exit status of each command is the documented one, and what is wrong is said with what would be right.

0 done, 1 failed, 2 the command line is wrong, 3 no vmdns runs.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.unit import test_cli
from tests.unit.test_cli import ANSWERS, Fake, Run, serving
from vmdns import cli
from vmdns.cli_parser import build_parser
from vmdns.config import Config, values_in_force

user, run = test_cli.user, test_cli.run
FOUND, NONE = ANSWERS["ask"], {**ANSWERS["ask"], "found": False, "answer": []}  # type: ignore[dict-item]
WELL = {"subject": "vmdns", "level": "ok", "text": "runs", "command": ""}
PROBLEM = {**WELL, "level": "problem"}
CONFIG = {"running": True, "file": "", "fault": "", "values": values_in_force(Config())}
NAMES = {**test_cli.NAMES, "names": [{**one, "here": []} for one in test_cli.NAMES["names"]]}
SERVED = {**ANSWERS, "names": NAMES, "doctor": {"findings": [WELL]}, "config": CONFIG}
REFUSED = {key: {"error": "not that"} for key in ANSWERS}


@pytest.fixture(autouse=True)
def no_virtualbox(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a look at VirtualBox or at this computer would find is not the matter here."""
    from vmdns.commands import direct_read, doctor
    from vmdns.sources.reader import ReaderUnavailable

    def look(config: Config) -> Any:
        raise ReaderUnavailable("VirtualBox is not installed")

    monkeypatch.setattr(direct_read, "read_facts", look)
    monkeypatch.setattr(doctor, "check_host", lambda status, log: [])
    monkeypatch.setattr("vmdns.commands.wire.find", lambda *_: None, raising=False)
    monkeypatch.setenv("PATH", os.devnull)


def status_of(run: Run, *words: str) -> tuple[int, str]:
    """The exit status, and what standard error said."""
    try:
        status, _, err = run(*words)
    except SystemExit as end:  # argparse's way
        return int(str(end.code)), ""
    return status, err


@pytest.mark.parametrize(
    ("words", "served", "status"),
    [
        ("", None, 2), ("--help", None, 0), ("--version", None, 0), ("rum", None, 2), ("--nope", None, 2),
        ("names", SERVED, 0), ("names", REFUSED, 1), ("names", None, 1), ("names --nope", SERVED, 2),
        ("names --watch", SERVED, 3), ("names --watch", None, 3),
        ("names --watch", REFUSED | {"watch": [{"error": "x"}]}, 1),
        ("ask web", SERVED, 0), ("ask wbe", SERVED | {"ask": NONE}, 1), ("ask wbe --dig", SERVED | {"ask": NONE}, 1),
        ("ask wbe --json", SERVED | {"ask": NONE}, 1), ("ask web", REFUSED, 1), ("ask web", None, 3),
        ("ask", SERVED, 2),
        ("status", SERVED, 0), ("status", REFUSED, 1), ("status", None, 3), ("status x", SERVED, 2),
        ("doctor", SERVED, 0), ("doctor", SERVED | {"doctor": {"findings": [WELL, PROBLEM]}}, 1), ("doctor", None, 1),
        ("doctor", SERVED | {"doctor": {"findings": [{**WELL, "level": "warning"}]}}, 0), ("doctor", REFUSED, 1),
        ("doctor --reader x", SERVED, 2),
        ("config", SERVED, 0), ("config", None, 0), ("config", SERVED | {"config": {**CONFIG, "fault": "bad"}}, 1),
        ("config --config {none}", SERVED, 1), ("config --config {bad}", None, 1), ("config --config {good}", None, 0),
        ("run --config {none}", None, 1), ("run --config {bad}", None, 1), ("run --config {folder}", None, 1),
        ("run --listen 300.1.1.1", None, 2), ("run --listen 127.0.0.1:x", None, 2), ("run --upstream foo", None, 2),
        ("run --upstream 224.0.0.1", None, 2), ("run --reader x", None, 2), ("run x", None, 2),
        ("hosts", SERVED, 0), ("hosts", None, 3), ("hosts --apply", None, 3), ("hosts --keep", None, 3),
        ("hosts --apply --undo", None, 2),
        ("host --apply --undo", None, 2), ("host --network x", None, 2),
        ("wire", None, 1), ("wire --config {none}", None, 1), ("wire --apply --undo", None, 2),
        ("service", None, 2), ("service start", None, 2), ("service install -- x", None, 2),
        ("service install -- --listen 300.1.1.1", None, 2), ("service install -- --config {bad}", None, 1),
        ("names --demo", None, 3), ("doctor --demo", None, 3), ("config --demo", None, 3), ("status --demo", SERVED, 3),
        ("completion bash", None, 0), ("completion tcsh", None, 2), ("completion", None, 2),
    ],
)  # fmt: skip
def test_exit_status(run: Run, tmp_path: Path, words: str, served: dict[str, Any] | None, status: int) -> None:
    (tmp_path / "bad.toml").write_text("listn = []\n")
    (tmp_path / "good.toml").write_text("hosts = false\n")
    places = {name: tmp_path / f"{name}.toml" for name in ("none", "bad", "good")}
    line = [word.format(**places, folder=tmp_path) for word in words.split()]
    if served is None:
        found, err = status_of(run, *line)
    else:
        with serving(Fake(served)):
            found, err = status_of(run, *line)
    assert found == status, err
    if status in (1, 3) and words.split()[0] not in ("ask", "doctor"):
        assert err.splitlines()[-1].startswith("vmdns: ")


def test_no_other_status_is_documented() -> None:
    """0 to 3 in the help of each command, and the statuses of the table above are those."""
    (commands,) = (one for one in build_parser()._actions if isinstance(one, argparse._SubParsersAction))
    helps = [parser.format_help() for parser in (build_parser(), *commands.choices.values())]
    documented = {int(one) for text in helps for one in re.findall(r"^  ([0-9])  \S", text, re.MULTILINE)}
    assert documented == {cli.DONE, cli.FAILED, cli.USAGE, cli.NOT_RUNNING} == {0, 1, 2, 3}


def test_the_status_of_run_is_that_of_the_server(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = types.ModuleType("vmdns.daemon.app")
    monkeypatch.setitem(sys.modules, "vmdns.daemon.app", fake)
    monkeypatch.setattr("vmdns.daemon.app", fake, raising=False)
    for status in (0, 1):
        fake.run = lambda *_, status=status: status  # type: ignore[attr-defined]
        assert status_of(run, "run") == (status, "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("run --listen 300.1.1.1", "vmdns: --listen: '300.1.1.1' is not an address with a port; write it like \"192.0"),
        ("run --listen web", "vmdns: --listen: 'web' is not an address"),
        ("run --listen 127.0.0.1:70000", "'127.0.0.1:70000' has no valid port; a port is a number from 0 to 65535"),
        ("run --listen 224.0.0.251", "--listen: 224.0.0.251 is a multicast address; name an address of this host"),
        ("run --upstream foo", "--upstream: 'foo' is not an address with a port; write it like \"192.0.2.1\""),
        ("run --upstream 0.0.0.0", "--upstream: 0.0.0.0 is not the address of one server; name the server's own"),
        ("run --upstream 192.0.2.1:0", "'192.0.2.1:0' has no valid port; a port is a number from 1 to 65535"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_a_right_one(run: Run, words: str, said: str) -> None:
    status, err = status_of(run, *words.split())
    assert status == 2
    assert said in err
    assert err.count("\n") == 1


def test_doctor_with_a_vmdns_that_does_not_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even then: a finding, the checks of this computer, and a verdict."""
    from vmdns.commands import doctor
    from vmdns.state.findings import Finding

    firefox = Finding("this computer", "warning", "Firefox does not use the system's resolver")
    monkeypatch.setattr(doctor, "check_host", lambda status, log: [firefox])
    monkeypatch.setattr("vmdns.commands.server_request.ANSWER_SECONDS", 0.05)

    async def hangs(message: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(3600)
        return {}

    with serving(hangs):
        status, out, _ = run("doctor")
    assert status == 1
    assert "!  vmdns: does not answer within 0.05 s; end it and start it again\n      vmdns run\n" in out
    assert "Firefox" in out
    assert out.endswith("1 problem, 1 warning.\n")
