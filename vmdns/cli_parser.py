"""The command line as a parser: commands, options, and the help that teaches them."""

from __future__ import annotations

import argparse
from typing import Any

from vmdns import __version__

SHELLS = ("bash", "zsh", "fish", "powershell")

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

_STATUS = """\
exit status:
  0  done
  1  failed; the reason is on standard error
  2  the command line is wrong
  3  no vmdns runs
"""

_RUN = """\
Finds VirtualBox and answers for its VMs until Ctrl-C or SIGTERM. It needs no
configuration.

Every line it prints is one event: where it listens, which VirtualBox it found,
each name that appears (+), changes (~) or goes (-). A line beginning with
"ready" says that it answers.
"""

_RUN_EXAMPLES = """\
examples:
  vmdns run
  vmdns run --listen 127.0.0.1:5300        no right to port 53 is needed
  vmdns run --listen 127.0.0.1 --listen 192.168.56.1
  vmdns run --upstream 192.0.2.53          forward to this server only
  vmdns run --wire                         guests ask it, nothing set in them
  vmdns run --vbox-home ~/lab/VirtualBox   the VMs of another VirtualBox home

exit status:
  0  ended by Ctrl-C or SIGTERM
  1  it could not serve: the configuration is wrong, or it can listen nowhere
  2  the command line is wrong
"""

_DEMO = """\
Runs vmdns with a simulated VirtualBox of eight VMs, which start, stop, are
renamed and get other addresses every few seconds. Everything else is the real
vmdns: ask it with dig and with the other commands. It changes nothing on this
computer and needs no rights. It ends with Ctrl-C.

Loopback addresses stand for networks: a query to 127.0.1.1 is answered as that
of a guest on the first NAT Network, 127.0.1.2 on the second, 127.0.1.3 on the
host-only network, 127.0.1.4 on the bridged LAN.

It takes the options of vmdns run; --wire, --reader and --vbox-home do nothing.
"""

_DEMO_EXAMPLES = """\
examples:
  vmdns demo
  vmdns demo --listen 127.0.0.1:5400       at another port
  vmdns names --watch                      in another terminal: each change
  vmdns names --demo                       while a vmdns run is running as well

exit status:
  0  ended by Ctrl-C or SIGTERM
  1  it could not serve: the configuration is wrong, or it can listen nowhere
  2  the command line is wrong
"""

_NAMES = """\
Shows each running VM's name with its addresses by network, and why they are so.
When no vmdns runs, it takes one look at VirtualBox of its own.
"""

_NAMES_EXAMPLES = """\
examples:
  vmdns names
  vmdns names --watch               a line for each change, until Ctrl-C
  vmdns names --json | jq -r '.names[] | .name'
"""

_ASK = """\
Shows what the running vmdns answers, and why: where each address comes from,
and why there is no answer. NAME is the name of a VM as VirtualBox shows it, a
name below a VM or of a group, a full name, or an address, which asks for its
name (PTR). Names of VMs come first; end a name outside with a dot.
"""

_ASK_EXAMPLES = """\
examples:
  vmdns ask web                              the same as: vmdns ask web.local A
  vmdns ask web.local AAAA
  vmdns ask _ssh._tcp.web                    a service of the VM web (SRV)
  vmdns ask 10.0.2.4                         which name has this address?
  vmdns ask db --as web                      what the VM web is answered
  vmdns ask db --as 192.168.56.101           what this machine is answered
  vmdns ask www.example.com. MX --dig        in the form of dig

exit status:
  0  there is an answer
  1  there is none, or asking failed; the reason is printed
  2  the command line is wrong
  3  no vmdns runs
"""

_STATUS_ABOUT = """\
Says whether all is well, then where the running vmdns listens, and the state of
VirtualBox, of the sources of names and of the upstreams.
"""

_WIRE = """\
Shows what would make VirtualBox's networks hand vmdns out to their guests as
their DNS server: NAT Networks and host-only networks. Nothing is changed
without --apply; --undo restores what was there. Giving this computer an address
is the only step that asks for rights; where they are missing, networks share an
address that it has.
"""

_WIRE_EXAMPLES = """\
examples:
  vmdns wire                        the plan
  vmdns wire --apply                do it
  vmdns wire --network NatNetwork   for this network only
  vmdns wire --undo                 restore what was there
"""

_HOST = """\
Shows what would make this computer ask vmdns: for the names of VMs only, or
with --whole for everything, which VirtualBox then passes on to guests on NAT.
Nothing is changed without --apply; --undo restores what was there. Rights are
asked for when a step needs them.
"""

_HOST_EXAMPLES = """\
examples:
  vmdns host                        the plan
  vmdns host --apply                do it
  vmdns host --whole                the plan to ask vmdns for everything
  vmdns host --undo                 restore what was there
"""

_HOSTS = """\
Shows the lines that would be written to this computer's hosts file, for
computers that do not ask vmdns: the running VMs that this computer can reach.
Everything else in the file stays as it is.
"""

_HOSTS_EXAMPLES = """\
examples:
  vmdns hosts                       the block
  vmdns hosts --apply               write it once
  vmdns hosts --keep                write it at each change, until Ctrl-C;
                                    then the block is taken out again
  vmdns hosts --undo                take the block out
"""

_SERVICE = """\
Has this computer start vmdns when you log in, as you: by systemd, launchd or
Task Scheduler. It shows its plan and asks before it changes anything; what was
changed is noted, and uninstall takes it back.
"""

_SERVICE_EXAMPLES = """\
examples:
  vmdns service install                   the plan, and whether to do it
  vmdns service install --yes -- --wire   after --: options of vmdns run
  vmdns service status                    whether it runs, what it said last
  vmdns service uninstall                 restore what was there

exit status of status: 0 it runs, 3 it does not
"""

_DOCTOR = """\
Looks for what keeps names from being answered: in the running vmdns, on each of
VirtualBox's networks, for each VM that runs, and on this computer. Each finding
is a line, with the command that fixes it below, the least drastic one. The last
line is the verdict. It changes nothing.

To find out whether a DNS server answers names in local itself, it asks each
upstream for one that nobody has.
"""

_DOCTOR_EXAMPLES = """\
examples:
  vmdns doctor
  vmdns doctor --json | jq '.findings[] | select(.level == "problem")'

exit status:
  0  all is well, or there are only warnings (?)
  1  there are problems (!), or it failed; no vmdns runs is a problem
  2  the command line is wrong
  3  with --demo: no vmdns demo runs
"""

_CONFIG = """\
Shows the configuration in force in the running vmdns, its command-line options
included, as a vmdns.toml that you can copy from: each value with its default,
where it was set, and what vmdns chose where the value leaves that open.

When no vmdns runs, and with --config, it shows the values of the file. A wrong
file is an error that says the file, the line, the key and what would be right.
"""

_CONFIG_EXAMPLES = """\
examples:
  vmdns config
  vmdns config --config new.toml && cp new.toml ~/.config/vmdns/vmdns.toml
  vmdns config --json | jq -r .values.zones.from

exit status:
  0  done
  1  the file is wrong; the reason is on standard error
  2  the command line is wrong
  3  with --demo: no vmdns demo runs
"""

_COMPLETION = """\
Prints a script for your shell that completes the commands and options of vmdns
and the names of your VMs.
"""

_COMPLETION_EXAMPLES = """\
examples:
  vmdns completion bash > ~/.local/share/bash-completion/completions/vmdns
  vmdns completion zsh > ~/.zfunc/_vmdns
                        with fpath+=~/.zfunc before compinit in ~/.zshrc
  vmdns completion fish > ~/.config/fish/completions/vmdns.fish
  vmdns completion powershell >> $PROFILE
"""


class _Command(argparse.ArgumentParser):
    """The parser of one command; with rest, the words after -- are kept under that name."""

    rest = ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        given = list(args or ())
        at = given.index("--") if self.rest and "--" in given else len(given)
        found, unknown = super().parse_known_args(given[:at], namespace)
        if self.rest:
            setattr(found, self.rest, given[at + 1 :])
        return found, unknown


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; `command` says which command was given, None for none."""
    parser = argparse.ArgumentParser(
        prog="vmdns",
        description=_ABOUT,
        epilog=_STATUS + "\n'vmdns COMMAND --help' explains each command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vmdns {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Command)

    def command(name: str, short: str, long: str, end: str) -> _Command:
        return commands.add_parser(
            name, help=short, description=long, epilog=end, formatter_class=argparse.RawDescriptionHelpFormatter
        )

    run = command("run", "answer for the VMs of VirtualBox", _RUN, _RUN_EXAMPLES)
    _run_options(run)
    _run_options(command("demo", "show vmdns at work without VirtualBox", _DEMO, _DEMO_EXAMPLES))

    names = command("names", "show the names and addresses of the VMs", _NAMES, _NAMES_EXAMPLES + "\n" + _STATUS)
    _json(names)
    names.add_argument("--watch", action="store_true", help="go on with a line for each change")
    _home(names, demo=True)
    _reader(names)

    ask = command("ask", "show what is answered for a name, and why", _ASK, _ASK_EXAMPLES)
    ask.add_argument("name", metavar="NAME", help="a name, a VM's name without zone, or an address")
    ask.add_argument("type", metavar="TYPE", nargs="?", help="the record type, like AAAA or TXT (default: A)")
    ask.add_argument("--as", dest="client", metavar="VM", help="ask as this VM, or the machine with this address")
    ask.add_argument("--dig", action="store_true", help="show the answer in the form of dig")
    _json(ask)
    _home(ask, demo=True)

    status = command("status", "show whether all is well", _STATUS_ABOUT, _STATUS)
    _json(status)
    _home(status, demo=True)

    wire = command("wire", "let guests ask vmdns", _WIRE, _WIRE_EXAMPLES + "\n" + _STATUS)
    wire.add_argument("--network", default="", metavar="NETWORK", help="this NAT Network or host-only interface only")
    _plan(wire)
    _home(wire)
    _file(wire)

    host = command("host", "let this computer ask vmdns", _HOST, _HOST_EXAMPLES + "\n" + _STATUS)
    host.add_argument("--whole", action="store_true", help="ask vmdns for everything, not only for names of VMs")
    _plan(host)
    _home(host, demo=True)

    hosts = command("hosts", "write names into the hosts file", _HOSTS, _HOSTS_EXAMPLES + "\n" + _STATUS)
    doing = _plan(hosts)
    doing.add_argument("--keep", action="store_true", help="follow each change until Ctrl-C")
    _home(hosts, demo=True)

    service = command("service", "have vmdns started when you log in", _SERVICE, _SERVICE_EXAMPLES + "\n" + _STATUS)
    service.add_argument("action", choices=("install", "uninstall", "status"), help="what to do")
    service.add_argument("--yes", action="store_true", help="do it without asking")
    _json(service)
    service.rest = "options"

    doctor = command("doctor", "find what stops names from resolving, and how to fix it", _DOCTOR, _DOCTOR_EXAMPLES)
    _json(doctor)
    _home(doctor, demo=True)
    _reader(doctor)

    config = command("config", "show the configuration in force", _CONFIG, _CONFIG_EXAMPLES)
    _json(config)
    _home(config, demo=True)
    _file(config)

    completion = command("completion", "print a script that completes commands", _COMPLETION, _COMPLETION_EXAMPLES)
    completion.add_argument("shell", choices=SHELLS, help="the shell to print it for")
    return parser


def run_parser() -> argparse.ArgumentParser:
    """The parser of the options of `vmdns run` alone."""
    (commands,) = (one for one in build_parser()._actions if isinstance(one, argparse._SubParsersAction))
    found: argparse.ArgumentParser = commands.choices["run"]
    return found


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--listen",
        action="append",
        default=[],
        metavar="ADDR[:PORT]",
        help="answer at this address and port instead of the default ones; may be repeated",
    )
    parser.add_argument(
        "--wire", action="store_true", help="keep the networks set up as vmdns wire --apply does, while vmdns runs"
    )
    _home(parser)
    _reader(parser)
    parser.add_argument(
        "--upstream",
        dest="upstreams",
        action="append",
        default=[],
        metavar="ADDR[:PORT]",
        help="forward everything else to this server instead of what the host uses; may be repeated",
    )
    _file(parser)


def _home(parser: argparse.ArgumentParser, *, demo: bool = False) -> None:
    parser.add_argument(
        "--vbox-home",
        default="",
        metavar="DIR",
        help="VirtualBox's settings folder (default: VBOX_USER_HOME, or else the usual one)",
    )
    if demo:
        parser.add_argument("--demo", action="store_true", help="ask vmdns demo, even while a vmdns run is running")


def _reader(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reader",
        choices=("auto", "api", "vboxmanage"),
        default="",
        help="read VirtualBox through its API, through VBoxManage, or through the first that works (default: auto)",
    )


def _file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="read this file instead of the usual vmdns.toml")


def _plan(parser: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
    doing = parser.add_mutually_exclusive_group()
    doing.add_argument("--apply", action="store_true", help="do it, instead of only showing it")
    doing.add_argument("--undo", action="store_true", help="take back what was done")
    _json(parser)
    return doing


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, for scripts")
