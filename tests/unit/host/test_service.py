"""What starts vmdns by itself: the texts for each system against kept ones, read back, and as steps with undo.

No service manager is started here: systemctl and sudo are played by scripts that note what they are told.
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
from vmdns.commands import service
from vmdns.commands.service import run_options
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


def server_unit(one: ServiceProgram) -> str:
    return systemd.unit_files(one)[systemd.service_name(one.owner.name)]


def test_launch_agent() -> None:
    alice = ServiceOwner("alice", 501, Path("/Users/alice"))
    text = launchd.render_plist(program("--wire", owner=alice))
    assert text == (SAMPLES / "local.vmdns.plist").read_text("utf-8")
    found = plistlib.loads(text.encode())
    assert found["ProgramArguments"] == ["/opt/vmdns/bin/python", "-P", "-m", "vmdns", "run", "--wire"]
    assert found["KeepAlive"] == {"SuccessfulExit": False}
    assert found["AbandonProcessGroup"] is True


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


@pytest.mark.parametrize("changed", [{}, {"ExecutionTimeLimit": "PT1H"}, {"Execute": "notepad.exe"}])
def test_a_task_that_the_user_changed_is_another(monkeypatch: pytest.MonkeyPatch, changed: dict[str, str]) -> None:
    monkeypatch.setattr("vmdns.host.elevation.read_output", lambda *_: json.dumps({**SHOWN, **changed}))
    assert task_scheduler.LogonTask("vmdns (alice)").read() == {**TASK, **changed}


@pytest.mark.parametrize("text", ["", "[]", "{}", "<Task", "null"])
def test_no_task(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("vmdns.host.elevation.read_output", lambda *_: text)
    assert task_scheduler.LogonTask("vmdns (alice)").read() is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [("alice", "vmdns-alice.service"), ("a.b-c_d", "vmdns-a.b-c_d.service"), ("a@b", r"vmdns-a\x40b.service"),
     ("LAB\\ö", r"vmdns-LAB\x5c\xc3\xb6.service")],
)  # fmt: skip
def test_unit_names(name: str, expected: str) -> None:
    assert systemd.service_name(name) == expected


@pytest.mark.parametrize(
    ("word", "shown"),
    [("--wire", "--wire"), ("/a b/c", '"/a b/c"'), ("100%", "100%%"), ("$HOME", "$$HOME"), ('a"b', r'"a\"b"'),
     ("a\\b", r'"a\\b"'), (";", '";"'), ("a\nb\x1b", r'"a\x0ab\x1b"')],
)  # fmt: skip
def test_words_of_a_unit(word: str, shown: str) -> None:
    text = server_unit(ServiceProgram(ALICE, ("/x", word)))
    assert f"ExecStart=/x {shown}\n" in text


def test_a_name_that_units_do_not_take_is_given_by_number() -> None:
    assert "\nUser=1000\n" in server_unit(ServiceProgram(ServiceOwner("LAB\\alice", 1000, Path("/")), ("/x",)))


def find(who: str | int) -> ServiceOwner:
    users = {0: ServiceOwner("root", 0, Path("/root")), 1000: ALICE}
    return next(one for one in users.values() if who in (one.uid, one.name)) if who != "nobody" else {}[who]


@pytest.mark.parametrize(
    ("environ", "uid", "vms", "name"),
    [({}, 1000, False, "alice"), ({"SUDO_USER": "alice"}, 0, False, "alice"), ({}, 0, True, "root"),
     ({"SUDO_USER": "root"}, 0, True, "root"), ({"SUDO_USER": "root"}, 1000, False, "alice")],
)  # fmt: skip
def test_whose_service(
    environ: dict[str, str], uid: int, vms: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_program, "read_user", find)
    assert find_owner(environ, uid, lambda _: vms).name == name


@pytest.mark.parametrize(("environ", "words"), [({}, "root has no VMs"), ({"SUDO_USER": "nobody"}, "no user nobody")])
def test_no_service_for_whoever_has_no_vms(
    environ: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_program, "read_user", find)
    with pytest.raises(OSError, match=words):
        find_owner(environ, 0, lambda _: False)


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
def test_what_of_the_environment_is_kept(environ: dict[str, str], kept: dict[str, str]) -> None:
    assert dict(service_program.service_program(ALICE, (), environ).environ) == kept


def test_vmdns_must_be_found_from_anywhere(tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\nexit 1\n")
    other.chmod(0o755)
    with pytest.raises(OSError, match=r"does not find vmdns when alice starts it from elsewhere; install vmdns"):
        check_program(
            program(
                interpreter=str(other), owner=ServiceOwner("alice", os.geteuid() if os.name == "posix" else 0, tmp_path)
            )
        )


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


def test_wrong_options_of_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_options(run_parser(), ["--wier"])
    assert "unrecognized arguments: --wier" in capsys.readouterr().err


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


def test_state_of_an_agent() -> None:
    lines = [
        "gui/501/local.vmdns = {",
        "\tstate = running",
        "\tendpoints = {",
        "\t\tstate = idle",
        "\t}",
        "\tpid = 77",
        "}",
    ]
    shown = "\n".join(lines)
    assert launchd.parse_print(shown) == {"running": True, "pid": 77, "since": None, "detail": ""}
    ended = "gui/501/local.vmdns = {\n\tstate = not running\n\tlast exit code = 1\n}\n"
    assert launchd.parse_print(ended)["detail"] == "it ended with status 1"
    assert not launchd.parse_print("Could not find service")["running"]
    disabled = (
        'disabled services = {\n\t"local.vmdns" => disabled\n\t"b" => enabled\n\t"c" => true\n\t"d" => false\n}\n'
    )
    assert launchd.parse_disabled(disabled) == {"local.vmdns", "c"}


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


# -- done and undone, with systemctl and sudo played ------------------------------------------------------------

SYSTEMCTL = """#!/bin/sh
echo "$*" >>"{said}"
case "$*" in
    is-enabled*) [ -e "{enabled}" ] && echo enabled || echo disabled ;;
    "enable --now "*) : >"{enabled}" ;;
    "disable --now "*) rm -f "{enabled}" ;;
esac
"""


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a systemctl that only takes notes; rights are there without asking."""
    folder = tmp_path / "bin"
    folder.mkdir()
    file = folder / "systemctl"
    file.write_text(SYSTEMCTL.format(said=tmp_path / "said", enabled=tmp_path / "enabled"))
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr("vmdns.host.elevation.is_elevated", lambda: True)
    return tmp_path


def wanted(folder: Path, *options: str) -> list[tuple[Setting, object]]:
    path = folder / "system" / "vmdns-alice.service"
    return [
        (systemd.UnitFile(str(path)), server_unit(program(*options))),
        (systemd.Enabled(path.name), True),
    ]


def told(folder: Path) -> list[str]:
    """What systemctl was told to change since the last time."""
    said = folder / "said"
    lines = [line for line in said.read_text().splitlines() if not line.startswith("is-enabled")]
    said.unlink()
    return lines


@POSIX
def test_installed_and_taken_away(played: Path) -> None:
    journal, unit_file = Journal(played / "journal.json"), played / "system" / "vmdns-alice.service"
    steps = plan(wanted(played))
    assert [one.setting.describe(one.before, one.after) for one in steps] == [
        f"write {unit_file}: by vmdns service install: starts vmdns when alice logs in",
        "start vmdns-alice.service, now and at each log-in",
    ]
    assert not unit_file.exists()
    apply(steps, journal, "service", lambda line: None)
    assert told(played) == ["daemon-reload", "try-restart vmdns-alice.service", "enable --now vmdns-alice.service"]
    assert plan(wanted(played)) == []
    # Other options: the file alone, and vmdns started anew.
    apply(plan(wanted(played, "--wire")), journal, "service", lambda line: None)
    assert told(played) == ["daemon-reload", "try-restart vmdns-alice.service"]
    assert undo(journal, journal.entries("service"), systemd.SETTINGS, lambda line: None) == []
    assert told(played) == ["disable --now vmdns-alice.service", "daemon-reload"]
    assert not unit_file.exists()
    assert journal.entries() == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="systemd")
def test_what_is_installed_on_linux() -> None:
    """What runs beside the server is there before it is enabled, and goes after it is stopped."""
    wanted, _ = systemd.plan_service(program("--wire"))
    names = [(setting.kind, setting.name.rpartition("/")[2]) for setting, _ in wanted]
    assert names == [
        ("service-unit", "vmdns-beside-alice@.service"),
        ("service-unit", "vmdns-beside-alice.socket"),
        ("service-unit", "vmdns-alice.service"),
        ("service-enabled", "vmdns-alice.service"),
    ]
    for setting, _ in wanted:
        assert type(service.system.SETTINGS[setting.kind](setting.name)) is type(setting)
    template, socket, server = (systemd.UnitFile(f"/x/{name}").after for _, name in names[:3])
    assert template == (("systemctl", "daemon-reload"),)
    assert [after[1] for after in (socket, server)] == [
        ("systemctl", "try-restart", "vmdns-beside-alice.socket"),
        ("systemctl", "try-restart", "vmdns-alice.service"),
    ]


@pytest.mark.parametrize("system", [systemd, launchd, task_scheduler], ids=lambda one: one.__name__)
def test_each_system_has_the_same_functions(system: object) -> None:
    for name in ("SETTINGS", "check_system", "plan_service", "read_status", "service_name"):
        assert hasattr(system, name)


@pytest.mark.skipif(sys.platform == "win32", reason="its own system")
def test_the_log_of_a_windowless_vmdns(tmp_path: Path) -> None:
    from vmdns.commands import standard_streams

    file = tmp_path / "state" / "vmdns.log"
    for text in ("one", "two"):
        opened = f"from vmdns.commands.standard_streams import open_log; open_log(Path({str(file)!r}))"
        code = f"from pathlib import Path; {opened}; print({text!r})"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert file.read_text() == "one\ntwo\n"
    file.write_text("x" * (standard_streams.MAX_LOG_BYTES + 1))
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert file.read_text() == "two\n"
    assert file.with_name("vmdns.log.1").stat().st_size == standard_streams.MAX_LOG_BYTES + 1
    assert launchd.read_last_lines(file) == ["two"]
