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
from vmdns.commands import DONE, FAILED, NOT_RUNNING, USAGE, CommandError, standard_streams
from vmdns.dns.escape import escape_text

if TYPE_CHECKING:
    from types import TracebackType

    from vmdns.commands.server_request import RunningServer

INTERRUPTED = 130  # the status that shells give a command that Ctrl-C ended


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
    except KeyboardInterrupt:
        status = INTERRUPTED
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
    except CommandError as fail:
        _complain(f"vmdns: {escape_text(fail)}")
        return fail.status


def _existing_folder(text: str) -> str:
    """The full path of the folder that --vbox-home names, ~ allowed."""
    path = os.path.abspath(os.path.expanduser(text))
    if not os.path.isdir(path):
        what = "is not a folder" if os.path.exists(path) else "does not exist"
        raise CommandError(f"--vbox-home: {path} {what}; name the folder that has VirtualBox.xml", USAGE)
    return path


def _complain(line: str) -> None:
    """Prints to standard error, if that can be written."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints an uncaught exception as Python does, with control characters escaped."""
    import traceback

    for part in traceback.format_exception(kind, error, trace):
        for line in part.rstrip("\n").split("\n"):
            _complain(escape_text(line))
    standard_streams.flush()


def _run(arguments: Namespace) -> int:
    from vmdns.commands.direct_read import load_config, options_of
    from vmdns.daemon import app

    options = options_of(arguments)
    config, path = load_config(arguments.config, options)
    status = app.run(config, path, options, _log)
    standard_streams.flush()  # a log that cannot be written is no failure of the server
    return status


def _demo(arguments: Namespace) -> int:
    from vmdns.commands import demo as demo_command
    from vmdns.commands.direct_read import load_config, options_of
    from vmdns.daemon import app

    try:
        options, left_out = demo_command.options(options_of(arguments))
    except OSError as error:
        raise CommandError(str(error)) from None
    config, path = load_config(arguments.config, options)
    for line in (demo_command.NOTE, *left_out):
        _log(line)
    status = app.run(config, path, options, _log, demo_command.WORKER)
    standard_streams.flush()
    return status


def _log(line: str) -> None:
    # The server goes on when nobody reads its output any more.
    with contextlib.suppress(OSError, ValueError):
        print(escape_text(line), flush=True)


def _names(arguments: Namespace) -> int:
    if arguments.watch:
        return _watch(arguments)
    server, request = _server(arguments), {"do": "names"}
    found = server.request(request) if arguments.demo else server.request_if_running(request)
    if found is None:
        _complain(f"vmdns: {server.missing}; this is one look at VirtualBox")
        from vmdns.commands import direct_read

        found = direct_read.read_names(direct_read.load_config(None, direct_read.options_of(arguments))[0])
    status = _show(arguments, found, lambda style: cli_format.names(found, time.time(), style))
    if not found["names"] and not arguments.vbox_home:
        from vmdns.host.other_users import describe_other_users
        from vmdns.sources.installation import user_home

        if text := describe_other_users(user_home(os.environ)):
            _complain(f"vmdns: {escape_text(text)}")
    return status


def _watch(arguments: Namespace) -> int:
    from vmdns.control.client import ControlError, NotRunning

    style, server = _style(), _server(arguments)
    try:
        for line in server.stream({"do": "watch"}):
            if arguments.json:
                _print([json.dumps(line)], flush=True)
            elif "change" in line:
                _print([cli_format.change(line, style)], flush=True)
            else:
                _print([*_simulation(arguments), *cli_format.names(line, time.time(), style)], flush=True)
    except NotRunning as error:
        raise server.not_running(error) from None
    except ControlError as error:
        raise CommandError(str(error)) from None
    raise CommandError("vmdns has ended", NOT_RUNNING)


def _ask(arguments: Namespace) -> int:
    message = {"do": "ask", "name": arguments.name, "type": arguments.type, "as": arguments.client}
    response = _server(arguments).request(message)
    shown = cli_format.dig if arguments.dig else cli_format.answer
    _show(arguments, response, lambda style: shown(response, arguments.client, style))
    return DONE if response["found"] else FAILED


def _status(arguments: Namespace) -> int:
    response = _server(arguments).request({"do": "status"})
    return _show(arguments, response, lambda style: cli_format.status(response, time.time(), style))


def _host(arguments: Namespace) -> int:
    from vmdns.commands import host as host_command

    server = _server(arguments)
    status = None if arguments.undo else server.request_if_running({"do": "status"})
    server.refuse_simulation()
    if status:
        zones = status["zones"]
    else:
        from vmdns.commands.direct_read import load_config

        zones = load_config(None)[0].zones
    try:
        response = host_command.command(_action(arguments), arguments.whole, status, zones, _step_log(arguments))
    except (OSError, RuntimeError) as error:
        raise CommandError(str(error)) from None
    return _show(arguments, response, lambda style: cli_format.host(response, arguments.whole, style))


def _wire(arguments: Namespace) -> int:
    from vmdns.commands import wire as wire_command
    from vmdns.commands.direct_read import load_config
    from vmdns.commands.wire_networks import Wire

    config, _ = load_config(arguments.config)
    try:
        wire = Wire(arguments.vbox_home or config.vbox_home, config.zones, may=wire_command.can_ask())
        response = wire_command.command(wire, _action(arguments), arguments.network, _step_log(arguments))
    except (OSError, RuntimeError) as error:
        raise CommandError(str(error)) from None
    if arguments.undo and config.wire:
        response["notes"].append("vmdns.toml has wire = true, so vmdns sets them again while it runs")
    return _show(arguments, response, lambda style: cli_format.wire(response, style))


def _hosts(arguments: Namespace) -> int:
    from vmdns.commands import hosts

    server = _server(arguments)

    def names() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = server.request({"do": "names"})["names"]
        if arguments.keep or arguments.apply:
            server.refuse_simulation()
        return found

    try:
        if arguments.keep:
            hosts.keep(lambda: server.stream({"do": "watch"}), names, _log)
        response = hosts.command(_action(arguments), names)
    except OSError as error:
        raise CommandError(str(error)) from None
    return _show(arguments, response, lambda style: cli_format.hosts(response))


def _doctor(arguments: Namespace) -> int:
    from vmdns.commands import doctor
    from vmdns.commands.direct_read import load_config, options_of

    def report(line: str) -> None:
        print(f"vmdns: {escape_text(line)}", file=sys.stderr, flush=True)

    response = doctor.command(_server(arguments), lambda: load_config(None, options_of(arguments))[0], report)
    _show(arguments, response, lambda style: cli_format.doctor(response, style))
    return DONE if response["well"] else FAILED


def _action(arguments: Namespace) -> str:
    return "undo" if arguments.undo else "apply" if arguments.apply else "plan"


def _step_log(arguments: Namespace) -> Callable[[str], None]:
    """Where a command's steps are printed while it does them; nowhere with --json."""
    return (lambda line: None) if arguments.json else _log


def _server(arguments: Namespace) -> RunningServer:
    """The running vmdns that the command means; the same object each time."""
    from vmdns.commands.server_request import RunningServer

    if not hasattr(arguments, "server"):
        arguments.server = RunningServer(str(arguments.vbox_home), demo=getattr(arguments, "demo", False))
    server: RunningServer = arguments.server
    return server


def _service(arguments: Namespace) -> int:
    from vmdns.commands import service
    from vmdns.host.program import ServiceUnavailable

    action = arguments.action
    options = service.run_options(run_parser(), arguments.options)
    if "--vbox-home" in options:
        _existing_folder(options[options.index("--vbox-home") + 1])
    if action == "install":
        from vmdns.commands.direct_read import load_config, options_of

        # A configuration that would end each start of the service is an error now.
        given = run_parser().parse_args(arguments.options)
        load_config(given.config, options_of(given))
    try:
        if action == "status":
            found = service.UserService().status()
            _show(arguments, found, lambda style: cli_format.service(found, time.time(), style))
            return DONE if found["running"] else NOT_RUNNING
        response = service.run_command(action, options, lambda plan: _agreed(arguments, plan), _step_log(arguments))
        if response["steps"] and not (response["done"] or arguments.json):
            _print([f"Do it with: vmdns service {action} --yes"])
        if arguments.json:
            _show(arguments, response, lambda style: [])
        return DONE
    except (ServiceUnavailable, OSError, RuntimeError) as error:
        raise CommandError(str(error)) from None


def _agreed(arguments: Namespace, plan: dict[str, Any]) -> bool:
    """Shows the plan. Returns whether to do it: with --yes, or when a user at the terminal agrees."""
    if not arguments.json:
        _print(cli_format.plan(plan, _style()))
    if arguments.yes or not plan["steps"]:
        return bool(arguments.yes)
    if arguments.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        return input("Do it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _config(arguments: Namespace) -> int:
    response = None if arguments.config else _server(arguments).request_if_running({"do": "config"})
    if response is None:
        from vmdns.commands.direct_read import describe_config

        response = describe_config(arguments.config)
        if not arguments.config:
            what = f"the values of {response['file']}" if response["file"] else "the defaults: there is no vmdns.toml"
            _complain(f"vmdns: no vmdns runs; these are {escape_text(what)}")
    if arguments.json:
        _show(arguments, response, lambda style: [])
    else:
        about = [f"# {one}" if one else "" for one in _simulation(arguments)]
        _print([*about, *cli_format.config(response["values"])])
    if response["fault"]:
        raise CommandError(f"{response['fault']}; the values before stay in force")
    return DONE


def _completion(arguments: Namespace) -> int:
    from vmdns.commands.completion import script

    _print(script(arguments.shell).splitlines())
    return DONE


def _simulation(arguments: Namespace) -> list[str]:
    """The lines that a command prints first when `vmdns demo` answered it."""
    text = arguments.server.simulation if hasattr(arguments, "server") else ""
    return [escape_text(text), ""] if text else []


def _show(arguments: Namespace, response: dict[str, Any], lines: Callable[[cli_format.Style], Sequence[str]]) -> int:
    if arguments.json:
        # In ASCII, so that control characters stay escaped.
        simulation = arguments.server.simulation if hasattr(arguments, "server") else ""
        _print([json.dumps({**({"simulation": simulation} if simulation else {}), **response}, indent=2)])
    else:
        _print([*_simulation(arguments), *lines(_style())])
    return DONE


def _style() -> cli_format.Style:
    return cli_format.style_of(sys.stdout.isatty(), os.environ, sys.platform)


def _print(lines: Sequence[str], *, flush: bool = False) -> None:
    """Prints the output of a command. Raises `_OutputFailed`, which no command handles."""
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
