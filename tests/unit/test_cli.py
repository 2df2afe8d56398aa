"""The commands, in-process and as programs, against a server whose answers are known."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import vmdns.daemon
from tests.unit.test_cli_format import ANSWER, CHANGE, NAMES, STATUS
from vmdns import cli, cli_parser
from vmdns.cli_parser import build_parser
from vmdns.commands import direct_read
from vmdns.commands import server_request as client
from vmdns.config import Config, Options, parse, values_in_force
from vmdns.control.client import instance_key
from vmdns.control.server import ControlServer, Handler
from vmdns.dns.upstreams import Upstream
from vmdns.host.system_settings import ListenAddress

COMMANDS = list(cli._COMMANDS)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def user(short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user of whom nothing is there: no configuration, no server, no VirtualBox home."""
    for variable in ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "VBOX_USER_HOME", "NO_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HOME", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(short))
    return short


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(arguments)
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@contextlib.contextmanager
def serving(handler: Handler, home: str | None = None) -> Iterator[None]:
    """A server in a thread of its own, in the first folder where clients look."""
    loop = asyncio.new_event_loop()
    server = ControlServer()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        start = server.start(client.control_folders()[0], instance_key(home), handler)
        asyncio.run_coroutine_threadsafe(start, loop).result(30)
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class Fake:
    """A server that says what it is told to, and remembers what it was asked."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[dict[str, Any]] = []

    def __call__(self, message: dict[str, Any]) -> Any:
        self.asked.append(message)
        return self._lines() if message["do"] == "watch" else self._answer(message["do"])

    async def _answer(self, do: str) -> dict[str, Any]:
        found: dict[str, Any] = self.answers[do]
        return found

    async def _lines(self) -> AsyncIterator[dict[str, Any]]:
        for line in self.answers["watch"]:
            yield line


ANSWERS = {"names": NAMES, "status": STATUS, "ask": ANSWER, "watch": [NAMES, CHANGE]}


@pytest.mark.parametrize("command", ["", *COMMANDS])
@pytest.mark.parametrize("columns", ["20", "80", "200"])
def test_help(command: str, columns: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as end:
        cli.main([*command.split(), "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert "examples:" in shown or not command or command == "status"
    if command != "completion":
        assert re.search(r"exit status:\n +0", shown)
    if columns == "80":
        assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["rum"], "invalid choice: 'rum'"), (["names", "x"], "usage: vmdns names"), (["run", "web"], "arguments: web")],
)
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert said in capsys.readouterr().err


def examples() -> list[str]:
    """Every example of the help texts, without what follows it on its line."""
    return re.findall(r"^ +vmdns (.*?)(?:  .*| [|>&].*)?$", "\n".join(cli_parser._COMMANDS.values()), re.MULTILINE)


def test_the_examples_of_the_help_are_valid() -> None:
    found = examples()
    assert len(found) > 15
    for example in found:
        assert build_parser().parse_args(example.split()).command in COMMANDS


@pytest.mark.parametrize(
    "command",
    ["run", "names", "names --watch", "ask web", "status", "wire", "host", "hosts", "doctor", "config",
     "service install --"],
)  # fmt: skip
def test_a_virtualbox_home_that_is_not_there(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("")
    for name, what in (("lab", "does not exist"), ("file", "is not a folder")):
        status, out, err = run(*command.split(), "--vbox-home", str(tmp_path / name))
        assert (status, out) == (2, "")
        assert err == f"vmdns: --vbox-home: {tmp_path / name} {what}; name the folder that has VirtualBox.xml\n"


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """Stands for vmdns.daemon.app."""
    fake = types.ModuleType("vmdns.daemon.app")
    monkeypatch.setitem(sys.modules, "vmdns.daemon.app", fake)
    monkeypatch.setattr(vmdns.daemon, "app", fake, raising=False)
    return fake


def test_run_hands_on_configuration_file_and_options(
    app: types.ModuleType, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []

    def fake(config: Config, path: Path | None, options: Options, say: Callable[[str], None]) -> int:
        given.extend((config, path, options))
        say("ready: web\x1b[31m.local\nis")
        return 7

    app.run = fake  # type: ignore[attr-defined]
    file = tmp_path / "my.toml"
    file.write_text('listen = ["192.0.2.1"]\nhosts = false\n')
    monkeypatch.chdir(tmp_path)
    arguments = ["--listen", "127.0.0.1:5300", "--listen", "::1", "--upstream", "192.0.2.53", "--reader", "api"]
    box = tmp_path / "box"
    box.mkdir()
    status, out, err = run("run", *arguments, "--vbox-home", "box", "--config", str(file))
    assert (status, out, err) == (7, "ready: web\\x1b[31m.local\\nis\n", "")
    config, path, options = given
    assert config == Config(
        listen=(ListenAddress("127.0.0.1", 5300), ListenAddress("::1")),
        hosts=False,
        upstreams=(Upstream("192.0.2.53"),),
        reader="api",
        vbox_home=str(box),
    )
    assert path == file
    listen, upstreams = ["127.0.0.1:5300", "::1"], ["192.0.2.53"]
    assert options == {"listen": listen, "upstreams": upstreams, "vbox_home": str(box), "reader": "api"}
    # What app does when the file changes must come to the same.
    assert parse(file.read_text(), "").with_options(options) == config


def test_run_watches_the_usual_file(app: types.ModuleType, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from vmdns.host.folders import config_file

    given: list[Any] = []
    app.run = lambda *arguments: given.extend(arguments[:2]) or 0  # type: ignore[attr-defined]
    config_file().parent.mkdir(parents=True)
    assert run("run") == (0, "", "")
    config_file().write_text('zones = ["lab"]')
    assert run("run") == (0, "", "")
    assert given == [Config(), config_file(), Config(zones=("lab",)), config_file()]


def test_names(run: Run) -> None:
    with serving(Fake(ANSWERS)):
        status, out, err = run("names")
        assert (status, err) == (0, "")
        assert out.splitlines()[2].startswith("web.local  10.0.2.4        NAT Network NatNetwork")
        status, out, err = run("names", "--json")
        assert (status, json.loads(out), err) == (0, NAMES, "")


def test_names_without_a_server_takes_one_look(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Config] = []
    monkeypatch.setattr(direct_read, "read_names", lambda config: looked.append(config) or NAMES)
    status, out, err = run("names", "--json", "--reader", "vboxmanage", "--vbox-home", str(tmp_path))
    assert (status, json.loads(out)) == (0, NAMES)
    assert err == "vmdns: no vmdns runs for this VirtualBox home; this is one look at VirtualBox\n"
    assert looked == [Config(reader="vboxmanage", vbox_home=str(tmp_path))]


def test_names_of_a_user_without_vms_say_who_has_some(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmdns.host.folders.describe_other_users", lambda own: f"{own.name[-10:]} has none\x1b[2J")
    with serving(Fake({**ANSWERS, "names": {**NAMES, "names": []}})):
        assert run("names")[2] == "vmdns: VirtualBox has none\\x1b[2J\n"
        assert json.loads(run("names", "--json")[1])["names"] == []
    with serving(Fake(ANSWERS)):
        assert run("names")[2] == ""


def test_names_watched(run: Run) -> None:
    with serving(Fake(ANSWERS)):
        status, out, err = run("names", "--watch")
        assert (status, err) == (3, "vmdns: vmdns has ended\n")
        lines = out.splitlines()
        assert lines[2].startswith("web.local  10.0.2.4")
        assert re.fullmatch(r"\d\d:\d\d:\d\d \+ web\.local  10\.0\.2\.4 .*", lines[-1])
        status, out, err = run("names", "--watch", "--json")
        *_, change, end = map(json.loads, out.splitlines())
        assert (change, end) == (CHANGE, {"error": "vmdns has ended", "remedy": ""})


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [(["My Web", "aaaa"], ("My Web", "aaaa", None)), (["10.0.2.4", "--as", "fd00::1"], ("10.0.2.4", None, "fd00::1"))],
)
def test_ask(run: Run, arguments: list[str], asked: tuple[str, str | None, str | None]) -> None:
    fake = Fake(ANSWERS)
    with serving(fake):
        status, out, err = run("ask", *arguments)
        assert (status, err) == (0, "")
        assert out.splitlines()[1] == "web.local  A     10.0.2.4  5 s"
        assert "web.local. 5 IN A 10.0.2.4" in run("ask", *arguments, "--dig")[1].splitlines()
    name, kind, asker = asked
    assert fake.asked[-1] == {"do": "ask", "name": name, "type": kind, "as": asker}


def test_an_error_is_json_too(run: Run, tmp_path: Path) -> None:
    """With --json, on standard output; the sentence for people and the exit status are as without."""
    (tmp_path / "bad.toml").write_text("listn = []")
    for words, status, error, remedy in (
        (["status"], 3, "no vmdns runs here", "start one with: vmdns run"),
        (["config", "--config", str(tmp_path / "bad.toml")], 1, f"{tmp_path / 'bad.toml'}, line 1: listn: unknown key",
         "did you mean listen?"),
        (["ask", "web", "--vbox-home", str(tmp_path / "none")], 2, f"--vbox-home: {tmp_path / 'none'} does not exist",
         "name the folder that has VirtualBox.xml"),
    ):  # fmt: skip
        found, out, err = run(*words, "--json")
        assert (found, json.loads(out), err) == (
            status, {"error": error, "remedy": remedy}, f"vmdns: {error}; {remedy}\n",
        )  # fmt: skip


def test_what_the_server_refuses(run: Run) -> None:
    with serving(Fake({"ask": {"error": "no such type\x1b[2J"}})):
        assert run("ask", "web") == (1, "", "vmdns: no such type\\x1b[2J\n")


def test_the_server_of_one_home(run: Run, tmp_path: Path) -> None:
    with serving(Fake(ANSWERS), str(tmp_path)):
        assert run("status", "--vbox-home", str(tmp_path))[0] == 0
        status, _, err = run("status", "--vbox-home", str(tmp_path.parent))
    assert (status, "no vmdns runs for this VirtualBox home" in err) == (3, True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has two folders")
def test_a_server_without_a_runtime_folder_is_found(run: Run, monkeypatch: pytest.MonkeyPatch, user: Path) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with serving(Fake(ANSWERS)):
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(user))
        assert len(client.control_folders()) == 2
        assert run("status")[0] == 0


def test_config(run: Run, tmp_path: Path) -> None:
    status, out, err = run("config")
    assert (status, err) == (0, "vmdns: no vmdns runs; these are the defaults: there is no vmdns.toml\n")
    assert parse(out, "") == Config()
    file = tmp_path / "vmdns.toml"
    file.write_text("[limits]\nttl = -1")
    status, out, err = run("config", "--config", str(file))
    assert (status, out) == (1, "")
    assert err == f"vmdns: {file}, line 2: limits.ttl: -1 is out of bounds; write a number from 0 to 3600 s\n"


def test_config_of_the_running_server(run: Run, tmp_path: Path) -> None:
    config = parse("wildcards = false", "/etc/x.toml")
    values = values_in_force(config)
    values["listen"]["now"] = "127.0.0.1 port 53"
    response = {"running": True, "file": "/etc/x.toml", "fault": "/etc/x.toml, line 4: no", "values": values}
    with serving(Fake({"config": response})):
        status, out, err = run("config")
        assert (status, parse(out, "")) == (1, config)
        assert "# In force now: 127.0.0.1 port 53\nlisten = []\n" in out
        assert err == "vmdns: /etc/x.toml, line 4: no; the values before stay in force\n"
        # A file that is named is shown, whatever runs.
        (tmp_path / "own.toml").write_text("hosts = false")
        status, out, err = run("config", "--config", str(tmp_path / "own.toml"))
        assert (status, err, parse(out, "")) == (0, "", Config(hosts=False))


def test_a_letter_that_the_terminal_cannot_show_is_no_end() -> None:
    with serving(Fake({"names": {**NAMES, "problems": ["리눅스"]}})):
        command, environ = [sys.executable, "-m", "vmdns", "names"], {**os.environ, "PYTHONIOENCODING": "ascii"}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "! \\ub9ac\\ub205\\uc2a4" in done.stdout


LOADED = "import sys; from vmdns import cli; cli.main(sys.argv[1:]); print(*sys.modules)"


def test_names_in_any_script_reach_a_file_or_a_pipe_as_utf_8() -> None:
    """On Windows too, whose code pages lack most of these letters; on both streams."""
    text = "서버 Größe 🐧"
    with serving(Fake({**ANSWERS, "names": {**NAMES, "problems": [text]}, "status": {"error": text}})):
        shown, refused = (
            subprocess.run([sys.executable, "-m", "vmdns", word], capture_output=True, timeout=60, check=False)
            for word in ("names", "status")
        )
    assert f"! {text}" in shown.stdout.decode("utf-8")
    assert refused.stderr.decode("utf-8").rstrip() == f"vmdns: {text}"


@pytest.mark.parametrize("arguments", [["status"], ["names", "--json"], ["ask", "web.local"]])
def test_commands_load_only_what_they_need(arguments: list[str]) -> None:
    with serving(Fake(ANSWERS)):
        done = subprocess.run(
            [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, timeout=60, check=True
        )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "vmdns.commands.server_request" in loaded
    assert not loaded & {"asyncio", "dns", "idna", "watchdog", "tomllib", "vmdns.config", "virtualbox"}


INTERRUPTED = """
import importlib.abc, os, runpy, signal, sys

class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["vmdns", "status"]
runpy.run_module("vmdns", run_name="__main__")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
@pytest.mark.parametrize("module", ["vmdns.cli", "argparse", "vmdns.commands.server_request"])
def test_ctrl_c_at_the_start_prints_no_traceback(module: str) -> None:
    code = INTERRUPTED.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert done.returncode in (-2, 130)
