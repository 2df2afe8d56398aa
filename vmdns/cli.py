"""The commands. The only file that prints; each command imports what it needs itself, so that it starts fast."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vmdns import cli_format
from vmdns.cli_parser import build_parser, run_parser
from vmdns.commands import standard_streams
from vmdns.dns.escaping import safe

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from vmdns.config import Config, Options

DONE, FAILED, USAGE, NOT_RUNNING = 0, 1, 2, 3
DOCTOR_SECONDS = 60  # for an answer of the running vmdns, or a look at VirtualBox
INTERRUPTED = 130  # what shells say of a command that Ctrl-C ended


class _Fail(Exception):
    """Ends the command: what to print on standard error, and the exit status."""

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(text)
        self.status = status


class _OutputFailed(Exception):
    """Standard output could not be written. `reason` is the OSError."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: FAILED where its output could not be written.

    A reader of the output that goes away, as `head` does, is no failure. Raises SystemExit as argparse does.
    """
    standard_streams.prepare()
    sys.excepthook = _uncaught
    status, exited, failure = DONE, None, None
    try:
        status = _command(argv)
    except SystemExit as exit_of_argparse:
        exited = exit_of_argparse
    except _OutputFailed as failed:
        failure = failed.reason
    failure = standard_streams.flush() or failure
    if failure is not None and not isinstance(failure, BrokenPipeError):
        _complain(f"vmdns: cannot write the output: {failure.strerror}")
        standard_streams.flush()
        return status or FAILED
    if exited is not None:
        raise exited
    return status


def _command(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:
        from vmdns.commands.completion import complete

        complete(parser)
    try:
        arguments = parser.parse_args(argv)
        if arguments.command is None:
            parser.print_help(sys.stderr)
            return USAGE
    except OSError:  # standard error cannot be written; argparse ignores that only since Python 3.11.4
        return USAGE
    try:
        if getattr(arguments, "vbox_home", ""):
            arguments.vbox_home = _existing_folder(arguments.vbox_home)
        return _COMMANDS[arguments.command](arguments)
    except _Fail as fail:
        _complain(f"vmdns: {safe(fail)}")
        return fail.status
    except KeyboardInterrupt:
        return INTERRUPTED


def _existing_folder(text: str) -> str:
    """The full path of the folder that --vbox-home names, ~ allowed."""
    path = os.path.abspath(os.path.expanduser(text))
    if not os.path.isdir(path):
        what = "is not a folder" if os.path.exists(path) else "does not exist"
        raise _Fail(f"--vbox-home: {path} {what}; name the folder that has VirtualBox.xml", USAGE)
    return path


def _complain(line: str) -> None:
    """Prints to standard error, if that can be written."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A fault of vmdns: said as Python does, but without what a text of others in it would do to the terminal."""
    import traceback

    for part in traceback.format_exception(kind, error, trace):
        for line in part.rstrip("\n").split("\n"):
            _complain(safe(line))
    standard_streams.flush()


def _run(arguments: Namespace) -> int:
    from vmdns.daemon import app

    options = _options(arguments)
    config, path = _configuration(arguments.config, options)
    status = app.run(config, path, options, _say)
    standard_streams.flush()  # a log that cannot be written is no failure of the server
    return status


def _demo(arguments: Namespace) -> int:
    from vmdns.commands import demo as demo_command
    from vmdns.daemon import app

    try:
        options, left_out = demo_command.options(_options(arguments))
    except OSError as error:
        raise _Fail(str(error)) from None
    config, path = _configuration(arguments.config, options)
    for line in (demo_command.NOTE, *left_out):
        _say(line)
    status = app.run(config, path, options, _say, demo_command.WORKER)
    standard_streams.flush()
    return status


def _say(line: str) -> None:
    # The server goes on when nobody reads its output any more.
    with contextlib.suppress(OSError, ValueError):
        print(safe(line), flush=True)


def _options(arguments: Namespace) -> Options:
    from vmdns.config import Options

    listen, upstreams = getattr(arguments, "listen", ()), getattr(arguments, "upstream", ())
    return Options(
        tuple(listen), tuple(upstreams), arguments.vbox_home, arguments.reader, getattr(arguments, "wire", False)
    )


def _configuration(file: str | None, options: Options | None = None) -> tuple[Config, Path]:
    """The configuration in force, and its file: the one named, or the usual one, which need not exist."""
    from pathlib import Path

    from vmdns.config import Config, ConfigError, ConfigMissing, OptionError, Options, load
    from vmdns.dns.zonefile import check_records
    from vmdns.host.folders import config_file

    try:
        path = Path(file) if file is not None else config_file()
        try:
            config = load(path, check_records)
        except ConfigMissing:
            if file is not None:
                raise
            config = Config()
        return config.with_options(options or Options()), path
    except OptionError as error:
        raise _Fail(str(error), USAGE) from None
    except (ConfigError, RuntimeError) as error:
        raise _Fail(str(error)) from None


def _names(arguments: Namespace) -> int:
    from vmdns.commands import server_request
    from vmdns.control.client import ControlError, NotRunning

    if arguments.watch:
        return _watch(arguments)
    try:
        found = server_request.request(_server(arguments), {"do": "names"})
    except NotRunning as error:
        if arguments.demo:
            raise _not_running(arguments, error) from None
        _complain(f"vmdns: {error}; this is one look at VirtualBox")
        found = _look_once(arguments)
    except ControlError as error:
        raise _Fail(str(error)) from None
    status = _show(arguments, _sound(arguments, found), lambda look: cli_format.names(found, time.time(), look))
    if not found["names"] and not arguments.vbox_home:
        from vmdns.host.other_users import hint
        from vmdns.sources.installation import user_home

        if text := hint(user_home(os.environ)):
            _complain(f"vmdns: {safe(text)}")
    return status


def _look_once(arguments: Namespace) -> dict[str, Any]:
    from vmdns.daemon import app
    from vmdns.sources.reader import Unavailable

    config, _ = _configuration(None, _options(arguments))
    try:
        return app.look_once(config)
    except (Unavailable, OSError) as error:
        raise _Fail(str(error)) from None


def _watch(arguments: Namespace) -> int:
    from vmdns.commands import server_request
    from vmdns.control.client import ControlError, NotRunning

    look = _look()
    try:
        for line in server_request.stream(_server(arguments), {"do": "watch"}):
            if arguments.json:
                _print([json.dumps(_sound(arguments, line))], flush=True)
            elif "change" in line:
                _print([cli_format.change(line, look)], flush=True)
            else:
                found = cli_format.names(_sound(arguments, line), time.time(), look)
                _print([*_simulation(arguments), *found], flush=True)
    except NotRunning as error:
        raise _not_running(arguments, error) from None
    except ControlError as error:
        raise _Fail(str(error)) from None
    raise _Fail("vmdns has ended", NOT_RUNNING)


def _ask(arguments: Namespace) -> int:
    response = _request(arguments, {"do": "ask", "name": arguments.name, "type": arguments.type, "as": arguments.asker})
    shown = cli_format.dig if arguments.dig else cli_format.answer
    _show(arguments, response, lambda look: shown(response, arguments.asker, look))
    return DONE if response["found"] else FAILED


def _status(arguments: Namespace) -> int:
    response = _request(arguments, {"do": "status"})
    return _show(arguments, response, lambda look: cli_format.status(response, time.time(), look))


def _host(arguments: Namespace) -> int:
    from vmdns.commands import host as hosting

    status = None if arguments.undo else _status_if_any(arguments)
    _refuse_simulation(arguments)
    zones = status["zones"] if status else _configuration(None)[0].zones
    try:
        response = hosting.command(
            "undo" if arguments.undo else "apply" if arguments.apply else "plan",
            arguments.whole,
            status,
            zones,
            (lambda line: None) if arguments.json else _say,
        )
    except hosting.NoServer as error:
        raise _Fail(str(error), NOT_RUNNING) from None
    except (hosting.Refused, OSError, RuntimeError) as error:
        raise _Fail(str(error)) from None
    return _show(arguments, response, lambda look: cli_format.host(response, arguments.whole, look))


def _wire(arguments: Namespace) -> int:
    from vmdns.commands import wire as wire_command
    from vmdns.commands.wire_networks import Refused, Wire

    config, _ = _configuration(arguments.config)
    home = wire_command.home_of(arguments.vbox_home, config.vbox_home)
    try:
        wire = Wire(home, config.zones, may=wire_command.can_ask())
        response = wire_command.command(
            wire,
            "undo" if arguments.undo else "apply" if arguments.apply else "plan",
            arguments.network,
            (lambda line: None) if arguments.json else _say,
        )
    except (Refused, OSError, RuntimeError) as error:
        raise _Fail(str(error)) from None
    if arguments.undo and config.wire:
        response["notes"].append("wire = true stands in vmdns.toml, so vmdns sets them again while it runs")
    return _show(arguments, response, lambda look: cli_format.wire(response, look))


def _status_if_any(arguments: Namespace) -> dict[str, Any] | None:
    return _request_if_any(arguments, {"do": "status"})


def _server(arguments: Namespace) -> str:
    """Which vmdns is meant: what `client` takes for a VirtualBox home."""
    from vmdns.control.client import DEMO

    return DEMO if getattr(arguments, "demo", False) else str(arguments.vbox_home)


def _request_if_any(arguments: Namespace, message: dict[str, Any]) -> dict[str, Any] | None:
    """The response of the running vmdns, None where none runs."""
    from vmdns.commands import server_request
    from vmdns.control.client import ControlError, NotRunning

    try:
        return _sound(arguments, server_request.request(_server(arguments), message))
    except NotRunning as error:
        if getattr(arguments, "demo", False):
            raise _not_running(arguments, error) from None
        return None
    except ControlError as error:
        raise _Fail(str(error)) from None


def _hosts(arguments: Namespace) -> int:
    from vmdns.host import hosts_block

    file = hosts_block.path()
    try:
        if arguments.keep:
            return _keep(arguments)
        wanted = None if arguments.undo else hosts_block.lines(_request(arguments, {"do": "names"})["names"])
        if arguments.apply:
            _refuse_simulation(arguments)
        now = hosts_block.read(file)
        if (arguments.apply or arguments.undo) and now != wanted:
            writer = hosts_block.Writer(file, once=True)
            writer.write(wanted)
            writer.close()
        done = arguments.apply or arguments.undo
        response = {"file": str(file), "before": now, "block": wanted, "done": done}
        return _show(arguments, response, lambda look: cli_format.hosts(response))
    except OSError as error:
        raise _Fail(str(error)) from None


def _keep(arguments: Namespace) -> int:
    """Writes the block at each change until Ctrl-C. Raises OSError."""
    from vmdns.commands import server_request
    from vmdns.control.client import ControlError, NotRunning
    from vmdns.host import hosts_block

    file = hosts_block.path()
    wanted = hosts_block.lines(_request(arguments, {"do": "names"})["names"])
    _refuse_simulation(arguments)
    writer = hosts_block.Writer(file, once=False)
    written: list[str] | None = None
    try:
        for _ in server_request.stream(_server(arguments), {"do": "watch"}):
            wanted = hosts_block.lines(_request(arguments, {"do": "names"})["names"])
            if wanted != written:
                writer.write(wanted)
                written = wanted
                _say(f"{len(wanted)} {'line' if len(wanted) == 1 else 'lines'} of names in {file}")
    except (NotRunning, ControlError) as error:
        raise _Fail(str(error), NOT_RUNNING) from None
    finally:
        writer.close()
        if written is not None:
            _say(f"the names are taken out of {file}")
    raise _Fail("vmdns has ended", NOT_RUNNING)


def _doctor(arguments: Namespace) -> int:
    from vmdns.commands import doctor
    from vmdns.commands.parallel import run_parallel
    from vmdns.daemon import app
    from vmdns.sources.reader import Unavailable
    from vmdns.state.findings import PROBLEM, Finding, host_findings

    def report(line: str) -> None:
        print(f"vmdns: {safe(line)}", file=sys.stderr, flush=True)

    def look() -> list[Finding]:
        config, _ = _configuration(None, _options(arguments))
        try:
            return doctor.examined(app.facts_once(config), app.policy_of(config))
        except (Unavailable, OSError) as error:
            what = Finding("VirtualBox", PROBLEM, str(error).removeprefix("VirtualBox "))
            return [*doctor.examined([], app.policy_of(config)), what]

    def from_server() -> list[Finding]:
        return [Finding(**one) for one in _request(arguments, {"do": "doctor"})["findings"]]

    try:
        (status,) = run_parallel({"vmdns": lambda: _status_if_any(arguments)}, DOCTOR_SECONDS, report).values()
        if status is None:
            report("no vmdns runs; this is one look at VirtualBox")
        what, task = ("VirtualBox", look) if status is None else ("vmdns", from_server)
        (findings,) = run_parallel({what: task}, DOCTOR_SECONDS, report).values()
    except ValueError:
        raise _Fail(f"no answer within {DOCTOR_SECONDS} s") from None
    except _Fail as fail:
        if fail.status != FAILED:
            raise
        # A vmdns that does not answer is a finding as well; this computer is checked all the same.
        status, findings = None, [Finding("vmdns", PROBLEM, str(fail).removeprefix("vmdns "), "vmdns run")]
    # What this computer asks is no matter to simulated VMs.
    on_host = [] if _simulation(arguments) else list(host_findings(doctor.gather(status, report)))
    response = doctor.answer([*findings, *on_host])
    _show(arguments, response, lambda look: cli_format.doctor(response, look))
    return DONE if response["well"] else FAILED


def _service(arguments: Namespace) -> int:
    from vmdns.commands import service
    from vmdns.host.program import NotPossible

    action = arguments.action
    options = service.run_options(run_parser(), arguments.options)
    if "--vbox-home" in options:
        _existing_folder(options[options.index("--vbox-home") + 1])
    if action == "install":
        # What would end each start of the service is said now.
        given = run_parser().parse_args(arguments.options)
        _configuration(given.config, _options(given))
    say = (lambda line: None) if arguments.json else _say
    try:
        one = service.Service()
        if action == "status":
            found = one.status()
            _show(arguments, found, lambda look: cli_format.service(found, time.time(), look))
            return DONE if found["running"] else NOT_RUNNING
        steps, left = (one.install(options), []) if action == "install" else one.uninstall()
        notes = one.notes() if steps and action == "install" else []
        response = service.answer(steps, left, notes, done=False)
        if not arguments.json:
            _print(cli_format.plan(response, _look()))
        if steps and (arguments.yes or _agreed(arguments)):
            if action == "install":
                one.apply(steps, say)
            else:
                one.undo(say)
            response["done"] = True
        elif steps and not arguments.json:
            _print([f"Do it with: vmdns service {action} --yes"])
        if arguments.json:
            _show(arguments, response, lambda look: [])
        return DONE
    except (NotPossible, OSError, RuntimeError) as error:
        raise _Fail(str(error)) from None


def _agreed(arguments: Namespace) -> bool:
    """Whether the user, if one is there, says yes."""
    if arguments.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        return input("Do it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _config(arguments: Namespace) -> int:
    from vmdns.config import render, values_in_force

    response = None if arguments.config else _request_if_any(arguments, {"do": "config"})
    if response is None:
        config, path = _configuration(arguments.config)
        file = str(path) if os.path.exists(path) else ""
        response = {"running": False, "file": file, "fault": "", "values": values_in_force(config)}
        if not arguments.config:
            what = f"the values of {file}" if file else "the defaults: there is no vmdns.toml"
            _complain(f"vmdns: no vmdns runs; these are {safe(what)}")
    if arguments.json:
        _show(arguments, response, lambda look: [])
    else:
        about = [f"# {one}" if one else "" for one in _simulation(arguments)]
        _print([*about, *render(response["values"]).splitlines()])
    if response["fault"]:
        raise _Fail(f"{response['fault']}; the values before stay in force")
    return DONE


def _completion(arguments: Namespace) -> int:
    from vmdns.commands.completion import script

    _print(script(arguments.shell).splitlines())
    return DONE


def _request(arguments: Namespace, message: dict[str, Any]) -> dict[str, Any]:
    from vmdns.commands import server_request
    from vmdns.control.client import ControlError, NotRunning

    try:
        return _sound(arguments, server_request.request(_server(arguments), message))
    except NotRunning as error:
        raise _not_running(arguments, error) from None
    except ControlError as error:
        raise _Fail(str(error)) from None


def _not_running(arguments: Namespace, error: Exception) -> _Fail:
    if getattr(arguments, "demo", False):
        return _Fail("no vmdns demo runs; start one with: vmdns demo", NOT_RUNNING)
    return _Fail(f"{error}; start one with: vmdns run", NOT_RUNNING)


def _sound(arguments: Namespace, response: dict[str, Any]) -> dict[str, Any]:
    if "error" in response:
        raise _Fail(str(response["error"]))
    arguments.simulation = str(response.get("simulation", ""))
    return response


def _simulation(arguments: Namespace) -> list[str]:
    """What a command says first when `vmdns demo` answered it."""
    text = getattr(arguments, "simulation", "")
    return [safe(text), ""] if text else []


def _refuse_simulation(arguments: Namespace) -> None:
    """Keeps a command from changing this computer for the sake of VMs that do not exist."""
    if _simulation(arguments):
        raise _Fail("this is a simulation (vmdns demo), for which nothing is changed; stop it and start: vmdns run")


def _show(arguments: Namespace, response: dict[str, Any], lines: Callable[[cli_format.Look], Sequence[str]]) -> int:
    if arguments.json:
        # In ASCII, so that what steers a terminal stays escaped.
        simulation = getattr(arguments, "simulation", "")
        _print([json.dumps({**({"simulation": simulation} if simulation else {}), **response}, indent=2)])
    else:
        _print([*_simulation(arguments), *lines(_look())])
    return DONE


def _look() -> cli_format.Look:
    return cli_format.look_of(sys.stdout.isatty(), os.environ, sys.platform)


def _print(lines: Sequence[str], *, flush: bool = False) -> None:
    """Prints what a command found. Raises `_OutputFailed`, which no command takes for a failure of its own."""
    try:
        for line in lines:
            print(line)
        if flush:
            sys.stdout.flush()
    except OSError as error:
        raise _OutputFailed(error) from None


_COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "run": _run,
    "demo": _demo,
    "names": _names,
    "ask": _ask,
    "status": _status,
    "wire": _wire,
    "host": _host,
    "hosts": _hosts,
    "service": _service,
    "doctor": _doctor,
    "config": _config,
    "completion": _completion,
}
