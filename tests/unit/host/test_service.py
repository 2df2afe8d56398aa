"""What starts vmdns by itself: the texts for each system against kept ones, read back, and as steps with undo.

No service manager is started here: systemctl and sudo are simulated by scripts that note their arguments.
"""

from __future__ import annotations

import json
import os
import plistlib
import subprocess
import sys
from pathlib import Path

import pytest

from vmdns.cli_parser import run_parser
from vmdns.commands.service import run_options
from vmdns.commands.standard_streams import MAX_LOG_BYTES
from vmdns.host import launchd, service_program, systemd, task_scheduler
from vmdns.host.plan import Journal, Setting, apply, plan, undo
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
    alice = ServiceOwner("alice", 501, Path("/Users/alice"))
    text = launchd.render_plist(program("--wire", owner=alice))
    assert text == (SAMPLES / "local.vmdns.plist").read_text("utf-8")
    assert plistlib.loads(text.encode())["AbandonProcessGroup"] is True


def test_task() -> None:
    value = task_scheduler.task_value(
        program("--config", r"C:\my files\it's.toml", interpreter=r"C:\Program Files\v\python.exe")
    )
    assert value["Execute"] == r"C:\Program Files\v\pythonw.exe"
    assert value["Arguments"] == '-P -m vmdns.commands.standard_streams run --config "C:\\my files\\it\'s.toml"'
    task = task_scheduler.LogonTask("vmdns (alice)")
    [line] = task.command_lines(value)
    for part in (
        "-TaskName 'vmdns (alice)'", r"-Execute 'C:\Program Files\v\pythonw.exe'", "it''s.toml",
        "$s.StopIfGoingOnBatteries = $false", "$s.ExecutionTimeLimit = 'PT0S'", "$s.RestartCount = 255",
        "-RunLevel Limited",
    ):  # fmt: skip
        assert part in line
    assert "Unregister-ScheduledTask -TaskName 'vmdns (alice)'" in task.command_lines(None)[0]


TASK = task_scheduler.task_value(program(interpreter=r"C:\v\python.exe"))
SHOWN = {"state": 3, "since": 1790000000, "result": 0, **TASK}


@pytest.mark.parametrize(
    ("text", "task"),
    [
        (json.dumps(SHOWN), TASK),
        (json.dumps({**SHOWN, "ExecutionTimeLimit": "PT1H"}), {**TASK, "ExecutionTimeLimit": "PT1H"}),
        *((text, None) for text in ("", "[]", "{}", "<Task", "null")),
    ],
)
def test_a_task_that_the_user_changed_is_another(
    monkeypatch: pytest.MonkeyPatch, text: str, task: dict[str, object] | None
) -> None:
    monkeypatch.setattr("vmdns.host.elevation.read_output", lambda *_: text)
    assert task_scheduler.LogonTask("vmdns (alice)").read() == task


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


@pytest.mark.parametrize(
    ("text", "state"),
    [(json.dumps({**SHOWN, "state": 4, "result": 267009}), (True, True, True, 1790000000.0, "")),
     (json.dumps({**SHOWN, "result": 1}), (True, True, False, None, "it ended with status 0x1")),
     (json.dumps({**SHOWN, "state": 1, "since": 0}), (True, False, False, None, "")),
     ("", (False, False, False, None, ""))],
)  # fmt: skip
def test_state_of_a_task(text: str, state: tuple[object, ...]) -> None:
    found = task_scheduler.task_state(task_scheduler.parse_task(text))
    assert tuple(found[key] for key in ("installed", "enabled", "running", "since", "detail")) == state


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
    assert launchd.read_last_lines(file) == ["three"]
