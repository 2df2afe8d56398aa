"""The commands. The only file that prints; each command imports what it needs itself, so that it starts fast."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from vmdns import cli_format
from vmdns.cli_parser import build_parser, complete, completion_script, run_parser
from vmdns.commands import DONE, FAILED, NOT_RUNNING, USAGE, CommandError, command_name, interruption, standard_streams
from vmdns.dns.escape import escape_text

INTERRUPTED = 130  # the status that shells give a command that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: FAILED where its output could not be written.

    A reader of the output that goes away, as `head` does, is no failure. Raises SystemExit as argparse does.
    """
    status, exited = DONE, None
    try:
        standard_streams.prepare()
        sys.excepthook = _print_uncaught
        status = _run_command(argv)
    except SystemExit as end:
        exited = end
    except KeyboardInterrupt:
        status = INTERRUPTED
    failure = standard_streams.flush()
    unwritten = _end_output(failure) if failure is not None else DONE
    if exited is not None and (exited.code or not unwritten):
        raise exited
    return status or unwritten


def _run_command(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:
        complete(parser)
    try:
        arguments = parser.parse_args(argv)
        if arguments.command is None:
            parser.print_help(sys.stderr)
            return USAGE
    except OSError:  # standard error cannot be written; argparse ignores that only since Python 3.11.4
        return USAGE
    from vmdns.commands.server_request import RunningServer

    # What is wrong in the server itself ends with a traceback, for its log.
    expected = CommandError if arguments.command in ("run", "demo") else (CommandError, OSError, RuntimeError)
    try:
        home = _check_folder(getattr(arguments, "vbox_home", ""))
        arguments.vbox_home = home
        if arguments.command in ("host", "hosts", "wire", "service"):
            interruption.raise_exceptions()
        arguments.server = RunningServer(home, demo=getattr(arguments, "demo", False))
        return _COMMANDS[arguments.command](arguments)
    except expected as error:
        failure = error if isinstance(error, CommandError) else CommandError(str(error))
        _complain(str(failure))
        if getattr(arguments, "json", False):
            _print([json.dumps({"error": failure.what, "remedy": failure.remedy})])
        return failure.status


def _check_folder(text: str) -> str:
    """The full path of the folder that --vbox-home names, ~ allowed; "" for none."""
    path = os.path.abspath(os.path.expanduser(text)) if text else ""
    if path and not os.path.isdir(path):
        what = "is not a folder" if os.path.exists(path) else "does not exist"
        raise CommandError(f"--vbox-home: {path} {what}; name the folder that has VirtualBox.xml", USAGE)
    return path


def _print(lines: Sequence[str]) -> None:
    """Prints the output of a command. Raises SystemExit where it cannot be written."""
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except OSError as error:
        standard_streams.flush()
        raise SystemExit(_end_output(error)) from None


def _end_output(failure: OSError) -> int:
    """The exit status where standard output cannot be written, and why on standard error."""
    if isinstance(failure, BrokenPipeError):
        return DONE
    _complain(f"cannot write the output: {failure.strerror}")
    standard_streams.flush()
    return FAILED


def _complain(text: str) -> None:
    """Prints a line to standard error, if that can be written."""
    with contextlib.suppress(OSError):
        print(f"vmdns: {escape_text(text)}", file=sys.stderr, flush=True)


def _log(line: str) -> None:
    """Prints what happens while a command runs. The server goes on when nobody reads its output any more."""
    with contextlib.suppress(OSError, ValueError):
        print(escape_text(line), flush=True)


def _print_uncaught(*error: Any) -> None:
    """Prints an uncaught exception as Python does, with control characters escaped."""
    import traceback

    with contextlib.suppress(OSError):
        for line in "".join(traceback.format_exception(*error)).rstrip().split("\n"):
            print(escape_text(line), file=sys.stderr)
    standard_streams.flush()


def _print_parts(parts: Sequence[cli_format.Part]) -> None:
    style = cli_format.style_of(sys.stdout.isatty(), standard_streams.is_colour_terminal(), os.environ)
    _print(cli_format.render(parts, style))


def _show(
    arguments: Namespace, response: dict[str, Any], format_parts: Callable[[dict[str, Any]], list[cli_format.Part]]
) -> int:
    """Prints a response as JSON or in words."""
    simulation = arguments.server.simulation
    if arguments.json:
        _print_json(arguments, response)
    else:
        _print_parts([*([simulation, ""] if simulation else []), *format_parts(response)])
    return DONE


def _print_json(arguments: Namespace, response: dict[str, Any]) -> None:
    """Prints a response in ASCII, so that control characters stay escaped."""
    simulation = arguments.server.simulation
    _print([json.dumps({**({"simulation": simulation} if simulation else {}), **response}, indent=2)])


def _run(arguments: Namespace) -> int:
    """`vmdns run`, and `vmdns demo`, which simulates VirtualBox."""
    from vmdns.commands.direct_read import load_config, options_of
    from vmdns.daemon import app

    options = options_of(arguments)
    notes: list[str] = []
    worker = {}
    if arguments.command == "demo":
        from vmdns.commands import demo

        options, notes = demo.options(options)
        worker = {"worker": demo.WORKER}
    config, path = load_config(arguments.config, options)
    for line in notes:
        _log(line)
    status = app.run(config, path, options, _log, **worker)
    standard_streams.flush()  # a log that cannot be written is no failure of the server
    return status


def _names(arguments: Namespace) -> int:
    server = arguments.server
    if arguments.watch:
        for line in server.stream({"do": "watch"}):  # raises at its end
            if arguments.json:
                _print([json.dumps(line)])
            elif "change" in line:
                _print_parts([cli_format.change(line)])
            else:
                _show(arguments, line, cli_format.names)
    response = server.request_if_running({"do": "names"})
    if response is None:
        _complain(f"{server.missing}; this is one look at VirtualBox")
        from vmdns.commands import direct_read

        response = direct_read.read_names(direct_read.load_config(None, direct_read.options_of(arguments))[0])
    _show(arguments, response, cli_format.names)
    if not response["names"] and not arguments.vbox_home:
        from vmdns.host.folders import describe_other_users
        from vmdns.sources.installation import user_home

        if text := describe_other_users(user_home(os.environ)):
            _complain(text)
    return DONE


def _ask(arguments: Namespace) -> int:
    message = {"do": "ask", "name": arguments.name, "type": arguments.type, "as": arguments.client}
    response = arguments.server.request(message)
    _show(arguments, response, partial(cli_format.dig if arguments.dig else cli_format.answer, client=arguments.client))
    return DONE if response["found"] else FAILED


def _status(arguments: Namespace) -> int:
    return _show(arguments, arguments.server.request({"do": "status"}), cli_format.status)


def _doctor(arguments: Namespace) -> int:
    from vmdns.commands import direct_read, doctor

    response = doctor.command(arguments.server, direct_read.options_of(arguments), _complain)
    _show(arguments, response, cli_format.doctor)
    return DONE if response["well"] else FAILED


def _config(arguments: Namespace) -> int:
    response = None if arguments.config else arguments.server.request_if_running({"do": "config"})
    if response is None:
        from vmdns.commands.direct_read import describe_config

        response = describe_config(arguments.config)
        if not arguments.config:
            what = f"the values of {response['file']}" if response["file"] else "the defaults: there is no vmdns.toml"
            _complain(f"no vmdns runs; these are {what}")
    if arguments.json:
        _print_json(arguments, response)
    else:  # not escaped, to be copied
        simulation = arguments.server.simulation
        _print([*([f"# {escape_text(simulation)}", ""] if simulation else []), *cli_format.config(response)])
    if response["fault"]:
        _complain(f"{response['fault']}; the values before stay in force")
        return FAILED
    return DONE


def _step_log(arguments: Namespace) -> Callable[[str], None]:
    """Where a command's steps are printed while it does them; nowhere with --json."""
    return (lambda line: None) if arguments.json else _log


def _host(arguments: Namespace) -> int:
    from vmdns.commands import host

    server = arguments.server
    status = None if arguments.do == "undo" else server.request_if_running({"do": "status"})
    server.refuse_simulation()
    if status:
        zones = status["zones"]
    else:
        from vmdns.commands.direct_read import load_config

        zones = load_config(None)[0].zones
    response = host.command(arguments.do, arguments.whole, status, zones, _step_log(arguments))
    command = "host --whole" if arguments.whole else "host"
    return _show(arguments, response, partial(cli_format.changes, command=command))


def _hosts(arguments: Namespace) -> int:
    from vmdns.commands import host

    server = arguments.server

    def names() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = server.request({"do": "names"})["names"]
        if arguments.do in ("apply", "keep"):
            server.refuse_simulation()
        return found

    if arguments.do == "keep":
        host.keep_hosts(server.stream({"do": "watch"}), names, _log)
    return _show(arguments, host.hosts_command(arguments.do, names), cli_format.hosts)


def _wire(arguments: Namespace) -> int:
    from vmdns.commands import wire
    from vmdns.commands.direct_read import load_config
    from vmdns.commands.host import ANSWER_SECONDS
    from vmdns.commands.host import answers as answers_at
    from vmdns.host.elevation import can_elevate

    config, _ = load_config(arguments.config)
    running = arguments.do == "apply" and arguments.server.request_if_running({"do": "status"})
    answers = partial(answers_at, patience=ANSWER_SECONDS) if running else lambda address: True
    home = arguments.vbox_home or config.vbox_home
    networks = wire.Wire(home, config.zones, may=can_elevate(), answers=answers)
    response = wire.command(networks, arguments.do, arguments.network, _step_log(arguments))
    if arguments.do == "undo" and config.wire:
        response["notes"].append("vmdns.toml has wire = true, so vmdns sets them again while it runs")
    return _show(arguments, response, cli_format.wire)


def _service(arguments: Namespace) -> int:
    from vmdns.commands import service
    from vmdns.commands.direct_read import load_config, options_of

    action = arguments.action
    options = service.run_options(run_parser(), arguments.options)
    given = run_parser().parse_args(options)
    _check_folder(given.vbox_home)
    if action == "status":
        response = service.status()
        _show(arguments, response, cli_format.service)
        return DONE if response["running"] else NOT_RUNNING
    if action == "install":
        load_config(given.config, options_of(given))  # what would end each start of the service is an error now
    response = service.change(action, options, lambda plan: _agreed(arguments, plan), _step_log(arguments))
    if arguments.json:
        _print_json(arguments, response)
    elif response["steps"] and not response["done"]:
        _print([f"Do it with: {command_name()} service {action} --yes"])
    return DONE


def _agreed(arguments: Namespace, plan: dict[str, Any]) -> bool:
    """Shows the plan. Returns whether to do it: with --yes, or when a user at the terminal agrees."""
    if not arguments.json:
        _print_parts(cli_format.plan(plan))
    if arguments.yes or not plan["steps"]:
        return bool(plan["steps"])
    if arguments.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return False
    try:
        return input("Do it? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _completion(arguments: Namespace) -> int:
    _print(completion_script(arguments.shell).splitlines())
    return DONE


_COMMANDS: dict[str, Callable[[Namespace], int]] = {
    "run": _run,
    "demo": _run,
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
