"""The command line as a parser: commands, options, the help that teaches them, and their completion in shells."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from typing import Any

from vmdns import __version__

_ABOUT = """\
DNS for the VMs of VirtualBox: name a VM, ask for the name, get its address.

Start it beside VirtualBox:

  vmdns run                  answers until Ctrl-C; web is then web.local
  vmdns demo                 the same with simulated VMs, without VirtualBox

and ask it from another terminal:

  vmdns names                which names there are, and why
  vmdns ask web              what is answered for one name, and why
  vmdns status               whether all is well
"""
# Of each command: what it is for, in short; its options (see _OPTIONS); what it does; examples.
_COMMANDS = {
    "run": """\
answer for the VMs of VirtualBox
--listen --wire --vbox-home --reader --upstream --config

Finds VirtualBox and answers for its VMs until Ctrl-C or SIGTERM. It needs no
configuration. It prints a line for each event, as for a name that appears (+),
changes (~) or goes (-); a line beginning with "ready" says that it answers.

examples:
  vmdns run --listen 127.0.0.1:5300        no right to port 53 is needed
  vmdns run --listen 127.0.0.1 --listen 192.168.56.1
  vmdns run --upstream 192.0.2.53          forward to this server only
  vmdns run --wire                         guests ask it, nothing set in them
  vmdns run --vbox-home ~/lab/VirtualBox   the VMs of another VirtualBox home
""",
    "demo": """\
show vmdns at work without VirtualBox
--listen --wire --vbox-home --reader --upstream --config

Runs vmdns with a simulated VirtualBox of eight VMs that change every few
seconds: ask it with dig and with the other commands. It changes nothing on this
computer and needs no rights; --wire, --reader and --vbox-home do nothing.

Loopback addresses stand for networks: a query to 127.0.1.1 is answered as that
of a guest on the first NAT Network, 127.0.1.2 on the second, 127.0.1.3 on the
host-only network, 127.0.1.4 on the bridged LAN.

examples:
  vmdns demo --listen 127.0.0.1:5400       at another port
  vmdns names --watch                      in another terminal: each change
  vmdns names --demo                       while a vmdns run is running as well
""",
    "names": """\
show the names and addresses of the VMs
--json --watch --vbox-home --demo --reader

Shows each running VM's name with its addresses by network, and why they are so.
When no vmdns runs, it takes one look at VirtualBox of its own.

examples:
  vmdns names --watch               a line for each change, until Ctrl-C
  vmdns names --json | jq -r '.names[] | .name'
""",
    "ask": """\
show what is answered for a name, and why
name type --as --dig --json --vbox-home --demo

Shows what the running vmdns answers, and why: where each address comes from,
and why there is no answer. NAME is the name of a VM as VirtualBox shows it, a
name below a VM or of a group, a full name, or an address, which asks for its
name (PTR). Names of VMs come first; end a name outside with a dot.

examples:
  vmdns ask web                              the same as: vmdns ask web.local A
  vmdns ask _ssh._tcp.web                    a service of the VM web (SRV)
  vmdns ask 10.0.2.4                         which name has this address?
  vmdns ask db --as web                      what the VM web is answered
  vmdns ask db --as 192.168.56.101           what this machine is answered
  vmdns ask www.example.com. MX --dig        in the form of dig
""",
    "status": """\
show whether all is well
--json --vbox-home --demo

Says whether all is well, then where the running vmdns listens, and the state of
VirtualBox, of the sources of names and of the upstreams.
""",
    "wire": """\
let guests ask vmdns
--network --apply --undo --json --vbox-home --config

Shows what would make NAT Networks and host-only networks give vmdns to their
guests as DNS server. Nothing is changed without --apply; --undo restores what
was there. Only giving this computer an address asks for rights; without them,
networks share an address that it has.

examples:
  vmdns wire                        the plan
  vmdns wire --network NatNetwork --apply
""",
    "host": """\
let this computer ask vmdns
--whole --apply --undo --json --vbox-home --demo

Shows what would make this computer ask vmdns: for the names of VMs only, or
with --whole for everything, which VirtualBox then passes on to guests on NAT.
Nothing is changed without --apply; --undo restores what was there. Rights are
asked for when a step needs them.

examples:
  vmdns host                        the plan
  vmdns host --whole --apply
""",
    "hosts": """\
write names into the hosts file
--apply --undo --keep --json --vbox-home --demo

Shows the lines that would be written to this computer's hosts file, for
computers that do not ask vmdns: the running VMs that this computer can reach.
Everything else in the file stays as it is.

examples:
  vmdns hosts --apply               write them once
  vmdns hosts --keep                write them at each change, until Ctrl-C;
                                    then they are taken out again
""",
    "service": """\
have vmdns started when you log in
action --yes --json

Has systemd, launchd or Task Scheduler start vmdns when you log in, as you. It
shows its plan and asks before it changes anything; uninstall takes it back.

examples:
  vmdns service install                   the plan, and whether to do it
  vmdns service install --yes -- --wire   after --: options of vmdns run
  vmdns service status                    whether it runs, what it said last

exit status of status: 0 it runs, 3 it does not
""",
    "doctor": """\
find what stops names from resolving, and how to fix it
--json --vbox-home --demo --reader

Looks for what keeps names from being answered: in the running vmdns, on each of
VirtualBox's networks, for each VM that runs, and on this computer. Each finding
is a line, with the least drastic command that fixes it below. It changes
nothing, and asks each upstream for a name in local that nobody has.

examples:
  vmdns doctor --json | jq '.findings[] | select(.level == "problem")'
""",
    "config": """\
show the configuration in force
--json --vbox-home --demo --config

Shows the configuration of the running vmdns as a vmdns.toml that you can copy
from: each value with its default, where it was set, and what vmdns chose where
the value leaves that open. When no vmdns runs, and with --config, it shows the
values of the file, or what is wrong with it.

examples:
  vmdns config --config new.toml && cp new.toml ~/.config/vmdns/vmdns.toml
  vmdns config --json | jq -r .values.zones.from
""",
    "completion": """\
print a script that completes commands
shell

Prints a script that completes commands, options and the names of your VMs.

examples:
  vmdns completion bash > ~/.local/share/bash-completion/completions/vmdns
  vmdns completion zsh > ~/.zfunc/_vmdns
                        with fpath+=~/.zfunc before compinit in ~/.zshrc
  vmdns completion fish > ~/.config/fish/completions/vmdns.fish
  vmdns completion powershell >> $PROFILE
""",
}  # fmt: skip

_STATUSES = {0: "done", 1: "failed; standard error says why", 2: "the command line is wrong", 3: "no vmdns runs"}
_SERVER_STATUSES = {0: "ended by Ctrl-C or SIGTERM", 1: "it could not serve, as with a wrong configuration", 3: ""}
_NO_DEMO = {3: "with --demo: no vmdns demo runs"}
# What the exit statuses of single commands mean, where that is not what they mean elsewhere.
_OWN_STATUSES = {
    "run": _SERVER_STATUSES,
    "demo": _SERVER_STATUSES,
    "ask": {0: "there is an answer", 1: "there is none, or asking failed"},
    "doctor": {0: "there are no problems (!)", 1: "there are problems, or it failed", **_NO_DEMO},
    "config": _NO_DEMO,
}
SHELLS = ("bash", "zsh", "fish", "powershell")
_FLAG: dict[str, Any] = {"action": "store_true"}
_DO: dict[str, Any] = {"action": "store_const", "dest": "do", "default": "plan"}
_LIST: dict[str, Any] = {"action": "append", "default": [], "metavar": "ADDR[:PORT]"}
_OPTIONS: dict[str, dict[str, Any]] = {
    "name": {"metavar": "NAME", "help": "a name, a VM's name without zone, or an address"},
    "type": {"metavar": "TYPE", "nargs": "?", "help": "the record type, like AAAA or TXT (default: A)"},
    "action": {"choices": ("install", "uninstall", "status"), "help": "what to do"},
    "shell": {"choices": SHELLS, "help": "the shell to print it for"},
    "--listen": {**_LIST, "help": "answer at this address and port instead of the default ones; may be repeated"},
    "--upstream": {
        **_LIST,
        "dest": "upstreams",
        "help": "forward everything else to this server instead of what the host uses; may be repeated",
    },
    "--wire": {**_FLAG, "help": "keep the networks set up as vmdns wire --apply does, while vmdns runs"},
    "--vbox-home": {
        "default": "",
        "metavar": "DIR",
        "help": "VirtualBox's settings folder (default: VBOX_USER_HOME, or else the usual one)",
    },
    "--reader": {
        "choices": ("auto", "api", "vboxmanage"),
        "default": "",
        "help": "read VirtualBox through its API, through VBoxManage, or through the first that works (default: auto)",
    },
    "--config": {"metavar": "FILE", "help": "read this file instead of the usual vmdns.toml"},
    "--json": {**_FLAG, "help": "print JSON, for scripts"},
    "--watch": {**_FLAG, "help": "go on with a line for each change"},
    "--demo": {**_FLAG, "help": "ask vmdns demo, even while a vmdns run is running"},
    "--as": {"dest": "client", "metavar": "VM", "help": "ask as this VM, or the machine with this address"},
    "--dig": {**_FLAG, "help": "show the answer in the form of dig"},
    "--network": {"default": "", "metavar": "NETWORK", "help": "this NAT Network or host-only interface only"},
    "--whole": {**_FLAG, "help": "ask vmdns for everything, not only for names of VMs"},
    "--apply": {**_DO, "const": "apply", "help": "do it, instead of only showing it"},
    "--undo": {**_DO, "const": "undo", "help": "take back what was done"},
    "--keep": {**_DO, "const": "keep", "help": "follow each change until Ctrl-C"},
    "--yes": {**_FLAG, "help": "do it without asking"},
}


class _Command(argparse.ArgumentParser):
    """The parser of one command. The words behind -- are options of `vmdns run` where the command takes those."""

    takes_run_options = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = list(args or ())
        at = given.index("--") if self.takes_run_options and "--" in given else len(given)
        found, unknown = super().parse_known_args(given[:at], namespace)
        if unknown:  # argparse would show the usage of the whole program
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        if self.takes_run_options:
            found.options = given[at + 1 :]
        return found, unknown


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; `command` says which command was given, None for none."""
    parser = argparse.ArgumentParser(
        prog="vmdns",
        description=_ABOUT,
        epilog=_describe_statuses({}) + "\n'vmdns COMMAND --help' explains each command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vmdns {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Command)
    for name, text in _COMMANDS.items():
        short, options, rest = text.split("\n", 2)
        about, examples, ends = rest.partition("\nexamples:\n")
        if name != "completion":
            ends += "\n" + _describe_statuses(_OWN_STATUSES.get(name, {}))
        command = commands.add_parser(
            name,
            help=short,
            description=about.strip(),
            epilog=(examples + ends).strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.takes_run_options = name == "service"
        one_of = command.add_mutually_exclusive_group() if "--apply" in options else command
        for option in options.split():
            (one_of if "const" in _OPTIONS[option] else command).add_argument(option, **_OPTIONS[option])
    return parser


def _describe_statuses(own: dict[int, str]) -> str:
    lines = (f"  {number}  {meaning}" for number, meaning in {**_STATUSES, **own}.items() if meaning)
    return "\n".join(["exit status:", *lines]) + "\n"


def run_parser() -> argparse.ArgumentParser:
    """The parser of the options of `vmdns run` alone."""
    return _command_parsers(build_parser())["run"]


def _command_parsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (commands,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    return dict(commands.choices)


# -- completion, by argcomplete --------------------------------------------------------------------------------------


def completion_script(shell: str) -> str:
    """The script that makes a shell (bash, zsh, fish or powershell) complete `vmdns`."""
    from argcomplete.shell_integration import shellcode

    return shellcode(["vmdns"], shell=shell)


def complete(parser: argparse.ArgumentParser) -> None:
    """Answers a shell that completes a command line, and ends the process. argcomplete passes the line in variables."""
    from argcomplete import autocomplete
    from argcomplete.completers import DirectoriesCompleter, SuppressCompleter

    by_metavar = {
        "NAME": _complete_machine,
        "VM": _complete_machine,
        "NETWORK": _complete_network,
        "FILE": _complete_file,
        "DIR": DirectoriesCompleter(),
    }
    for command in _command_parsers(parser).values():
        for action in command._actions:
            if completer := by_metavar.get(str(action.metavar)):
                action.completer = completer  # type: ignore[attr-defined]
    autocomplete(parser, default_completer=SuppressCompleter())


def _complete_file(prefix: str, **_: object) -> list[str]:
    """Paths that begin so. argcomplete's own runs bash, which Windows lacks."""
    import glob

    return [one + "/" if os.path.isdir(one) else one for one in glob.glob(glob.escape(prefix) + "*")]


def _complete_machine(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """The names of VMs, below the first zone."""
    found = _names(parsed_args)
    return [one["name"].removesuffix(f".{found['zones'][0]}") for one in found["names"]]


def _complete_network(parsed_args: argparse.Namespace, **_: object) -> Iterable[str]:
    """The networks of VirtualBox with DHCP servers that running VMs are on."""
    networks = (item["network"] for one in _names(parsed_args)["names"] for item in one["addresses"])
    return {one["name"] for one in networks if one["kind"] in ("natnetwork", "hostonly")}


def _names(parsed_args: argparse.Namespace) -> dict[str, Any]:
    from vmdns.commands import CommandError
    from vmdns.commands.server_request import RunningServer

    try:
        return RunningServer(getattr(parsed_args, "vbox_home", "")).request({"do": "names"})
    except CommandError:
        return {"zones": [""], "names": []}
