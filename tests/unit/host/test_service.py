"""What starts vmdns by itself: the texts for each system against kept ones, read back, and as steps with undo.

No service manager is started here: systemctl and sudo are simulated by scripts that note their arguments.
"""

from __future__ import annotations

import contextlib
import os
import plistlib
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest

from vmdns.cli_parser import run_parser
from vmdns.commands.service import run_options
from vmdns.commands.standard_streams import MAX_LOG_BYTES
from vmdns.host import folders, launchd, service_program, systemd, task_scheduler
from vmdns.host.plan import Journal, Setting, Step, apply, plan, undo
from vmdns.host.service_program import ServiceOwner, ServiceProgram, check_program, find_owner

SAMPLES = Path(__file__).with_name("samples")
ALICE = ServiceOwner("alice", 1000, Path("/home/alice"))
LANGUAGE = (("LANG", "ko_KR.UTF-8"),)
POSIX = pytest.mark.skipif(os.name != "posix", reason="POSIX only")


def program(*options: str, interpreter: str = "/opt/vmdns/bin/python", owner: ServiceOwner = ALICE) -> ServiceProgram:
    return service_program.service_program(owner, options, dict(LANGUAGE), interpreter)


def test_units() -> None:
    for name, text in systemd.unit_files(program("--listen", "127.0.0.1", "--wire")).items():
        assert text == (SAMPLES / name).read_text("utf-8")


def test_launch_agent() -> None:
    alice = ServiceOwner("alice", 501, PurePosixPath("/Users/alice"))
    text = launchd.render_plist(program("--wire", owner=alice))
    assert text == (SAMPLES / "local.vmdns.plist").read_text("utf-8")
    assert plistlib.loads(text.encode())["AbandonProcessGroup"] is True


@POSIX
@pytest.mark.parametrize(
    ("said", "tries", "printed", "error"),
    [
        ("Bootstrap failed: 125: Domain does not support specified action", 1, "", launchd.NOT_AT_SCREEN),
        (
            "Bootstrap failed: 5: Input/output error",
            2,
            "gui/501/local.vmdns = {",
            None,
        ),  # the old agent is still ending
        ("Bootstrap failed: 5: Input/output error", 2, "", "and does not have its agent"),
    ],
)
def test_an_agent_that_launchd_refuses(
    monkeypatch: pytest.MonkeyPatch, said: str, tries: int, printed: str, error: str | None
) -> None:
    calls: list[object] = []

    def run(command: object, **_: object) -> str:
        calls.append(command)
        if len(calls) == 1:
            raise OSError(f"launchctl bootstrap failed: {said}")
        return ""

    monkeypatch.setattr(launchd.elevation, "run", run)
    monkeypatch.setattr(launchd.elevation, "read_output", lambda *_: printed)
    monkeypatch.setattr(launchd, "_domain", lambda: "gui/501")
    monkeypatch.setattr(launchd.time, "sleep", lambda _: None)
    agent = launchd.LaunchAgent("/Users/alice/Library/LaunchAgents/local.vmdns.plist")
    with pytest.raises(OSError, match=re.escape(error)) if error else contextlib.nullcontext():
        agent.write("text")
    assert len(calls) == tries


SID = "S-1-5-21-1-2-3-1001"
TASK = task_scheduler.task_value(
    program("--config", r"C:\R&D\it's.toml", interpreter=r"C:\Program Files\v\python.exe"), SID
)
# As Windows gives the XML of a registered task: with its own declaration, and settings that were not named.
SHOWN = task_scheduler.render_task(TASK).replace("<Settings>", "<Settings><Hidden>false</Hidden>")
SHOWN = f'<?xml version="1.0" encoding="UTF-16"?>\n{SHOWN}'


def test_task() -> None:
    assert TASK["Command"] == r"C:\Program Files\v\pythonw.exe"
    assert TASK["Arguments"] == "-P -m vmdns.commands.standard_streams run --config C:\\R&D\\it's.toml"
    assert task_scheduler.parse_task(SHOWN) == TASK


@pytest.mark.parametrize(
    ("old", "new", "key", "value"),
    [
        ("<ExecutionTimeLimit>PT0S<", "<ExecutionTimeLimit>PT1H<", "ExecutionTimeLimit", "PT1H"),
        ("<ExecutionTimeLimit>PT0S</ExecutionTimeLimit>", "", "ExecutionTimeLimit", "PT72H"),
        ("<Enabled>true</Enabled>", "", "Enabled", "true"),
        ("<Enabled>true<", "<Enabled>false<", "Enabled", "false"),
        ("<Repetition><Interval>PT1M</Interval></Repetition>", "", "Interval", ""),
    ],
)
def test_a_task_that_the_user_changed_is_another(old: str, new: str, key: str, value: str) -> None:
    assert old in SHOWN
    assert task_scheduler.parse_task(SHOWN.replace(old, new)) == {**TASK, key: value}


def test_a_task_that_makes_no_sense() -> None:
    with pytest.raises(OSError, match="cannot be understood"):
        task_scheduler.parse_task("<Task")


class ComError(Exception):
    """As pywin32 raises the errors of a method."""

    def __init__(self, code: int) -> None:
        self.hresult, self.excepinfo = -2147352567, (0, None, None, None, 0, code - 2**32)


class PlayedFolder:
    """ITaskFolder and its one task. denied: RegisterTask is refused; idle: it does nothing."""

    def __init__(self) -> None:
        self.xml, self.denied, self.idle, self.done = "", False, False, ["made"]
        self.State, self.LastRunTime, self.LastTaskResult = 3, datetime(2026, 9, 21), 1

    def GetTask(self, name: str) -> PlayedFolder:
        if not self.xml:
            raise ComError(0x80070002)
        return self

    @property
    def Xml(self) -> str:
        return self.xml

    def RegisterTask(self, name: str, text: str, *_: object) -> None:
        if self.denied:
            raise ComError(0x80070005)
        self.xml = "" if self.idle else text

    def DeleteTask(self, name: str, flags: int) -> None:
        self.xml = ""

    def Run(self, parameters: None) -> None:
        self.done.append("run")

    def Stop(self, flags: int) -> None:
        self.done.append("stop")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> PlayedFolder:
    played = PlayedFolder()
    monkeypatch.setitem(sys.modules, "pythoncom", SimpleNamespace(com_error=ComError))
    monkeypatch.setattr(task_scheduler, "_open_folder", lambda: played)
    return played


def task_steps() -> list[Step]:
    return plan([(task_scheduler.LogonTask("vmdns (alice)"), TASK)])


def test_a_task_is_made_and_deleted(folder: PlayedFolder, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.json")
    apply(task_steps(), journal, "service", lambda line: None)
    assert task_steps() == []
    assert task_scheduler.read_status(ALICE)["detail"] == "it ended with status 0x1"
    assert undo(journal, journal.entries(), task_scheduler.SETTINGS, lambda line: None) == []
    assert (folder.xml, folder.done) == ("", ["made", "run", "stop"])
    assert task_scheduler.read_status(ALICE)["installed"] is False


def test_a_task_that_is_not_there_afterwards_is_not_done(folder: PlayedFolder, tmp_path: Path) -> None:
    folder.idle = True
    with pytest.raises(OSError, match=r"cannot change the task \(0x80070002\)"):
        apply(task_steps(), Journal(tmp_path / "journal.json"), "service", lambda line: None)


def test_a_task_that_needs_an_administrator(folder: PlayedFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.denied, written = True, []
    monkeypatch.setattr("vmdns.host.elevation.write_elevated", lambda *setting: written.append(setting))
    monkeypatch.setattr("vmdns.host.elevation.is_elevated", lambda: False)
    task_scheduler.LogonTask("vmdns (alice)").write(TASK)
    assert written == [("logon-task", "vmdns (alice)", TASK)]
    monkeypatch.setattr("vmdns.host.elevation.is_elevated", lambda: True)
    with pytest.raises(OSError, match=r"cannot change the task \(0x80070005\)"):
        task_scheduler.LogonTask("vmdns (alice)").write(TASK)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("alice", "vmdns-alice.service"), ("a.b-c_d", "vmdns-a.b-c_d.service"), ("a@b", r"vmdns-a\x40b.service"),
     ("LAB\\ö", r"vmdns-LAB\x5c\xc3\xb6.service")],
)  # fmt: skip
def test_unit_names(name: str, expected: str) -> None:
    assert systemd.service_name(name) == expected


@pytest.mark.parametrize(
    ("owner", "word", "line"),
    [
        (ALICE, "--wire", "ExecStart=/x --wire"),
        (ALICE, "/a b/c", 'ExecStart=/x "/a b/c"'),
        (ALICE, "100%", "ExecStart=/x 100%%"),
        (ALICE, "$HOME", "ExecStart=/x $$HOME"),
        (ALICE, 'a"b', r'ExecStart=/x "a\"b"'),
        (ALICE, "a\\b", r'ExecStart=/x "a\\b"'),
        (ALICE, ";", 'ExecStart=/x ";"'),
        (ALICE, "a\nb\x1b", r'ExecStart=/x "a\x0ab\x1b"'),
        (ServiceOwner("LAB\\alice", 1000, Path("/")), "x", "User=1000"),  # units do not take the name
    ],
)
def test_words_of_a_unit(owner: ServiceOwner, word: str, line: str) -> None:
    text = systemd.unit_files(ServiceProgram(owner, ("/x", word)))[systemd.service_name(owner.name)]
    assert line in text.splitlines()


@pytest.mark.parametrize(
    ("environ", "uid", "vms", "name"),
    [
        ({}, 1000, False, "alice"), ({"SUDO_USER": "alice"}, 0, False, "alice"), ({}, 0, True, "root"),
        ({"SUDO_USER": "root"}, 0, True, "root"), ({"SUDO_USER": "root"}, 1000, False, "alice"),
        ({}, 0, False, "root has no VMs"), ({"SUDO_USER": "nobody"}, 0, False, "no user nobody"),
    ],
)  # fmt: skip
def test_owner_of_the_service(
    environ: dict[str, str], uid: int, vms: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = ServiceOwner("root", 0, Path("/root"))
    users: dict[object, ServiceOwner] = {0: root, "root": root, 1000: ALICE, "alice": ALICE}
    monkeypatch.setattr(service_program, "read_user", users.__getitem__)
    if " " in name:
        with pytest.raises(OSError, match=name):
            find_owner(environ, uid, lambda _: vms)
    else:
        assert find_owner(environ, uid, lambda _: vms).name == name


@POSIX
@pytest.mark.parametrize(
    ("environ", "kept"),
    [
        ({"LANG": "ko_KR.UTF-8", "TERM": "x"}, {"LANG": "ko_KR.UTF-8"}),
        ({"LANG": "C"}, {"LANG": "C.UTF-8"}),
        ({"LANG": "de_DE.UTF-8", "LC_ALL": "C"}, {"LANG": "C.UTF-8"}),
        ({"LANG": "de_DE.utf8@euro", "VBOX_USER_HOME": "/lab", "XDG_CONFIG_HOME": ""},
         {"LANG": "de_DE.utf8@euro", "VBOX_USER_HOME": "/lab"}),
    ],
)  # fmt: skip
def test_the_environment_that_is_kept(environ: dict[str, str], kept: dict[str, str]) -> None:
    assert dict(service_program.service_program(ALICE, (), environ).environ) == kept


def test_vmdns_must_be_found_from_anywhere(tmp_path: Path) -> None:
    other, uid = tmp_path / "python", os.geteuid() if os.name == "posix" else 0
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    with pytest.raises(OSError, match=r"does not find vmdns when alice starts it from elsewhere; install vmdns"):
        check_program(program(interpreter=str(other), owner=ServiceOwner("alice", uid, tmp_path)))


@POSIX
@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], []),
        (["--wire", "--listen=127.0.0.1:5300", "--listen", "::1"],
         ["--listen", "127.0.0.1:5300", "--listen", "::1", "--wire"]),
        (["--conf", "a b.toml"], ["--config", "{cwd}/a b.toml"]),
        (["--vbox-home", "lab", "--reader", "api", "--upstream", "192.0.2.1"],
         ["--vbox-home", "{cwd}/lab", "--reader", "api", "--upstream", "192.0.2.1"]),
    ],
)  # fmt: skip
def test_options_of_run(words: list[str], options: list[str]) -> None:
    found = run_options(run_parser(), words)
    assert found == [one.replace("{cwd}", os.getcwd()) for one in options]
    assert run_parser().parse_args(found)


@pytest.mark.parametrize(
    ("sample", "state"),
    [
        ("show-running.txt", {"installed": True, "enabled": True, "running": True, "pid": 812, "since": 1790000000.0,
                              "detail": "ready: names in local are answered at 127.0.0.1 port 53"}),
        ("show-failed.txt", {"installed": True, "enabled": True, "running": False, "pid": 0, "since": None,
                             "detail": "it failed (watchdog)"}),
        ("show-none.txt", {"installed": False, "enabled": False, "running": False, "pid": 0, "since": None,
                           "detail": ""}),
    ],
)  # fmt: skip
def test_state_of_a_unit(sample: str, state: dict[str, object]) -> None:
    assert systemd.parse_show((SAMPLES / sample).read_text("utf-8")) == state


AGENT = "gui/501/local.vmdns = {\n\tstate = running\n\tendpoints = {\n\t\tstate = idle\n\t}\n\tpid = 77\n}"
ENDED = "gui/501/local.vmdns = {\n\tstate = not running\n\tlast exit code = 1\n}\n"
DISABLED = 'disabled services = {\n\t"local.vmdns" => disabled\n\t"b" => enabled\n\t"c" => true\n\t"d" => false\n}\n'


def test_state_of_an_agent() -> None:
    assert launchd.parse_print(AGENT) == {"running": True, "pid": 77, "since": None, "detail": ""}
    assert launchd.parse_print(ENDED)["detail"] == "it ended with status 1"
    assert not launchd.parse_print("Could not find service")["running"]
    assert launchd.parse_disabled(DISABLED) == {"local.vmdns", "c"}


STARTED = datetime(2026, 9, 21, 12, tzinfo=UTC)  # pywin32 calls a local time UTC


@pytest.mark.parametrize(
    ("found", "state"),
    [((4, STARTED, 267009), (True, True, True, STARTED.replace(tzinfo=None).timestamp(), "")),
     ((3, STARTED, 1), (True, True, False, None, "it ended with status 0x1")),
     ((3, STARTED, -1073741510), (True, True, False, None, "it ended with status 0xc000013a")),
     ((1, STARTED, 0), (True, False, False, None, "")),
     ((None, None, 0), (False, False, False, None, ""))],
)  # fmt: skip
def test_state_of_a_task(found: tuple[int | None, datetime | None, int], state: tuple[object, ...]) -> None:
    shown = task_scheduler.task_state(*found)
    assert tuple(shown[key] for key in ("installed", "enabled", "running", "since", "detail")) == state


# -- done and undone, with a simulated systemctl ------------------------------------------------------------

SYSTEMCTL = """#!/bin/sh
echo "$*" >>"{log}"
case "$*" in
    is-enabled*) [ -e "{enabled}" ] && echo enabled || echo disabled ;;
    "enable --now "*) : >"{enabled}" ;;
    "disable --now "*) rm -f "{enabled}" ;;
esac
"""


@pytest.fixture
def simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a systemctl that only notes its arguments; no password is needed."""
    file = tmp_path / "bin" / "systemctl"
    file.parent.mkdir()
    file.write_text(SYSTEMCTL.format(log=tmp_path / "log", enabled=tmp_path / "enabled"))
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{file.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("vmdns.host.elevation.is_elevated", lambda: True)
    return tmp_path


def wanted(folder: Path, *options: str) -> list[tuple[Setting, object]]:
    path = folder / "system" / "vmdns-alice.service"
    text = systemd.unit_files(program(*options))[path.name]
    return [(systemd.UnitFile(str(path)), text), (systemd.Enabled(path.name), True)]


@POSIX
def test_installed_and_taken_away(simulated: Path) -> None:
    journal, unit_file = Journal(simulated / "journal.json"), simulated / "system" / "vmdns-alice.service"
    log = simulated / "log"

    def calls() -> list[str]:
        """The changes by systemctl since the last time."""
        lines = [line for line in log.read_text().splitlines() if not line.startswith("is-enabled")]
        log.unlink()
        return lines

    steps = plan(wanted(simulated))
    assert [one.setting.describe(one.before, one.after) for one in steps] == [
        f"write {unit_file}: by vmdns service install: starts vmdns when alice logs in",
        "start vmdns-alice.service, now and at each log-in",
    ]
    assert not unit_file.exists()
    apply(steps, journal, "service", lambda line: None)
    assert calls() == ["daemon-reload", "try-restart vmdns-alice.service", "enable --now vmdns-alice.service"]
    assert plan(wanted(simulated)) == []
    # Other options: the file alone, and vmdns is restarted.
    apply(plan(wanted(simulated, "--wire")), journal, "service", lambda line: None)
    assert calls() == ["daemon-reload", "try-restart vmdns-alice.service"]
    assert undo(journal, journal.entries("service"), systemd.SETTINGS, lambda line: None) == []
    assert calls() == ["disable --now vmdns-alice.service", "daemon-reload"]
    assert not unit_file.exists()
    assert journal.entries() == []


def test_what_is_installed_on_linux() -> None:
    """What runs beside the server is there before it is enabled, and goes after it is stopped."""
    wanted, _ = systemd.plan_service(program("--wire"))
    assert [setting.name.rpartition("/")[2] for setting, _ in wanted] == [
        "vmdns-beside-alice@.service", "vmdns-beside-alice.socket", "vmdns-alice.service", "vmdns-alice.service",
    ]  # fmt: skip
    assert all(type(systemd.SETTINGS[one.kind](one.name)) is type(one) for one, _ in wanted)


@pytest.mark.skipif(sys.platform == "win32", reason="its own system")
def test_the_log_of_a_windowless_vmdns(tmp_path: Path) -> None:
    file = tmp_path / "state" / "vmdns.log"

    def run(text: str) -> None:
        code = f"from pathlib import Path; open_log(Path({str(file)!r})); print({text!r})"
        code = f"from vmdns.commands.standard_streams import open_log; {code}"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

    run("one")
    run("two")
    assert file.read_text() == "one\ntwo\n"
    file.write_text("x" * (MAX_LOG_BYTES + 1))
    run("three")
    assert file.read_text() == "three\n"
    assert file.with_name("vmdns.log.1").stat().st_size == MAX_LOG_BYTES + 1
    assert folders.read_last_lines(file) == ["three"]
