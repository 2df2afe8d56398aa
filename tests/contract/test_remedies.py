"""Every command line that vmdns tells its user to type has a test that runs it and sees the state mended.

The command lines are collected from the code: one that is not in REMEDIES fails here. Each entry names its test, as
`file::function`, or says why it cannot be run on a machine for tests; such a line is only looked at, word by word.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import vmdns
from vmdns.cli_parser import build_parser

ROOT = Path(vmdns.__file__).parent
TESTS = Path(__file__).parents[1]

APPLIED = "contract/test_remedies_applied.py"
MACOS, WINDOWS = "not run: a command of macOS", "not run: a command of Windows"
SYSTEMD = "not run: takes a systemd as process 1; what it frees is taken by vmdns, see test_listen_addresses.py"

REMEDIES = {
    # -- vmdns itself
    "vmdns run": "contract/test_run.py::test_doctor_finds_nothing_of_the_server_once_it_runs",
    "vmdns demo": "contract/test_demo.py::test_run_names_the_demo_where_no_virtualbox_is",
    "vmdns run --upstream ADDRESS": "contract/test_run.py::test_doctor_finds_nothing_of_the_server_once_it_runs",
    "vmdns status": "contract/test_run.py::test_doctor_and_status_agree_on_what_is_wrong",
    "vmdns doctor": "contract/test_run.py::test_doctor_and_status_agree_on_what_is_wrong",
    "vmdns names": "unit/test_cli.py::test_names",
    "vmdns host": "unit/commands/test_host.py::test_the_plan_changes_nothing",
    "vmdns host --apply": "unit/host/resolver_scenarios.py::split",
    "vmdns host --whole": "unit/host/resolver_scenarios.py::plain",
    "vmdns hosts": "unit/commands/test_host.py::test_the_block_is_shown_written_and_taken_out",
    "vmdns hosts --keep": "unit/commands/test_host.py::test_the_block_is_kept_until_vmdns_ends",
    "vmdns hosts --undo": "unit/commands/test_host.py::test_the_block_is_shown_written_and_taken_out",
    "vmdns wire --apply": f"{APPLIED}::test_what_networks_hand_out",
    "vmdns wire --network {} --apply": f"{APPLIED}::test_what_networks_hand_out",
    "vmdns service install": "unit/host/test_systemd.py::test_the_units_under_systemd",
    # -- VirtualBox
    "VBoxManage dhcpserver modify --network={} --enable": f"{APPLIED}::test_what_networks_hand_out",
    "VBoxManage natnetwork modify --netname {} --dhcp on": f"{APPLIED}::test_notes_of_the_plan_to_wire",
    "VBoxManage natnetwork modify --netname {} --loopback-4 127.0.0.1=2": f"{APPLIED}::test_notes_of_the_plan_to_wire",
    "VBoxManage dhcpserver modify --network={} --group={} --remove-config": f"{APPLIED}::"
    "test_a_strange_group_is_taken_away",
    "VBoxManage setextradata {} vmdns/names {}": "unit/state/test_name_assignment.py::test_each_remedy_helps",
    "VBoxManage controlvm {} setlinkstate{}": f"{APPLIED}::test_a_guest_is_made_to_renew_its_lease",
    "VBoxManage controlvm {} setlinkstate{} on": f"{APPLIED}::test_what_is_wrong_with_a_vm",
    "VBoxManage controlvm {} natpf{} ssh,tcp,127.0.0.1,{},,22": f"{APPLIED}::test_what_is_wrong_with_a_vm",
    "VBoxManage modifyvm {} --nic1=nat": f"{APPLIED}::test_what_is_wrong_with_a_vm",
    "VBoxManage modifyvm {} --mac-address{}=auto": f"{APPLIED}::test_two_vms_with_one_mac_address",
    # -- in a guest
    "rm /etc/machine-id; systemd-machine-id-setup": (
        "contract/test_remedies.py::test_a_copy_gets_a_machine_id_of_its_own"
    ),
    # -- the port
    "sudo sysctl -w net.ipv4.ip_unprivileged_port_start={}": "contract/test_run.py::"
    "test_port_53_that_may_not_be_had_and_an_address_that_comes_later",
    "sudo ss -lntup 'sport = :{}'": "contract/test_remedies.py::test_ss_names_who_has_a_port",
    "sudo systemctl stop {}": SYSTEMD,
    "systemctl --user stop {}": SYSTEMD,
    "netsh int ipv4 show excludedportrange protocol=udp": WINDOWS,
    # -- firewalls
    "sudo ufw allow to {} port 53": "contract/test_remedies.py::test_ufw_takes_the_rule",
    "sudo firewall-cmd --permanent --add-rich-rule='rule family=ipv{} destination address={} service name=dns "
    "accept'": "not run: takes firewalld and its D-Bus; the words are those of firewalld.richlanguage(5)",
    "sudo firewall-cmd --reload": "not run: takes firewalld and its D-Bus; the words are those of firewall-cmd(1)",
    "New-NetFirewallRule -DisplayName vmdns -Direction Inbound -Action Allow -LocalPort {}": WINDOWS,
    "Disable-NetFirewallRule -Name {}": WINDOWS,
    "open x-apple.systempreferences:": MACOS,
    "sudo {} --unblockapp {}": MACOS,
    # -- lines for vmdns.toml
    "private_domains = [{}]": "contract/faults/test_network.py::"
    "test_a_company_below_local_and_private_addresses_from_outside_and_from_this_computer",
    'private_domains = ["{}"]': "contract/faults/test_network.py::"
    "test_a_company_below_local_and_private_addresses_from_outside_and_from_this_computer",
    # -- installation
    "pipx install .": "not run: a test installs nothing for its user; the fresh machines of CI install by ./tools/run",
    "./tools/run": "contract/test_docs.py::test_files_that_are_named_exist",
    "sudo loginctl enable-linger {}": SYSTEMD,
    "scutil --dns": MACOS,
    "sudo lsof -nP -i :53": MACOS,
}

_COMMANDS = "|".join(sorted(next(iter(build_parser()._subparsers._group_actions)).choices))  # type: ignore[union-attr]
_VBOXMANAGE = "controlvm|modifyvm|dhcpserver|natnetwork|setextradata|hostonlyif|startvm|list"
_OTHERS = "sudo|netsh|systemctl|loginctl|Stop-Service|Restart-Service|firewall-cmd|ufw|pipx|scutil|launchctl|ipconfig"
_OTHERS += "|New-NetFirewallRule|Disable-NetFirewallRule"
# A command line in a text: up to the end of the text, of a clause or of its quotes.
_LINE = re.compile(
    rf"((?:vmdns (?:{_COMMANDS})|VBoxManage (?:{_VBOXMANAGE})|{_OTHERS}|resolvectl|networkctl|systemd-machine-id-setup"
    rf"|open x-\S+|rm|\./tools/run)(?![\w-])[^`]*?)(?=`|$|[,)] |; (?!systemd)|\)[,.:]|\)$|\. )"
)
_TOML = re.compile(r"vmdns\.toml: ([a-z_]+ = .*)")
# No advice: help, and what the command lines of a plan's steps are made of, which the tests of each setting run.
_ELSEWHERE = frozenset({"cli_parser.py", "elevation.py", "system_settings.py"})


def texts(tree: ast.AST) -> Iterator[str]:
    """All texts of a module but docstrings; what is put into a text is `{}`."""
    docstrings, parts = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            docstrings.add(id(node.value))
        if isinstance(node, ast.JoinedStr):
            parts |= {id(one) for one in ast.walk(node) if one is not node}
    for node in ast.walk(tree):
        if id(node) in docstrings | parts:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(one.value) if isinstance(one, ast.Constant) else "{}" for one in node.values)


def command_lines(source: str) -> set[str]:
    """The command lines that a module tells its user to type: in backquotes, at a text's beginning, or after a colon
    or `with`; and lines for vmdns.toml."""
    found = set()
    for text in texts(ast.parse(source)):
        for match in _LINE.finditer(text):
            before = text[: match.start()]
            if " " not in match[1] and not before:
                continue  # the name of a program, not a command line
            if not before or before.endswith(("`", ": ", "see ", "(", "run ")):
                found.add(match[1].strip())
        found |= set(_TOML.findall(text))
    return found


def all_command_lines() -> dict[str, str]:
    """Each command line with a module that has it."""
    found: dict[str, str] = {}
    for file in sorted(ROOT.rglob("*.py")):
        if file.name not in _ELSEWHERE:
            found.update(dict.fromkeys(command_lines(file.read_text(encoding="utf-8")), file.name))
    return found


def test_each_remedy_is_in_the_table() -> None:
    found = all_command_lines()
    missing = {line: where for line, where in found.items() if line not in REMEDIES}
    assert missing == {}, "a remedy needs a test that applies it: name it in REMEDIES"
    assert sorted(set(REMEDIES) - set(found)) == [], "these are no longer in the code"


def test_the_collector_sees_remedies() -> None:
    source = (
        '"""Doc: `sudo no`."""\nx = f"stop it: `sudo systemctl stop {unit}`, or"\ny = "VBoxManage list vms"\n'
        'z = "see vmdns status; or"\nw = f"start it with: vmdns run --wire"\nv = "the vmdns run of today"\n'
    )
    lines = {"sudo systemctl stop {}", "VBoxManage list vms", "vmdns status", "vmdns run --wire"}
    assert command_lines(source) == lines


@pytest.mark.parametrize("line", REMEDIES)
def test_its_test_is_there(line: str) -> None:
    proof = REMEDIES[line]
    if proof.startswith("not run: "):
        assert shlex.split(line)
        return
    file, _, function = proof.partition("::")
    assert re.search(rf"^(?:async )?def {function}\(", (TESTS / file).read_text(encoding="utf-8"), re.MULTILINE), proof


@pytest.mark.parametrize("line", [one for one in REMEDIES if one.startswith("vmdns ")])
def test_it_is_a_command_line_of_vmdns(line: str) -> None:
    for action in ("install", "uninstall"):
        filled = line.replace("service {}", f"service {action}")
        words = shlex.split(filled.replace("{}", "'my net'").replace("ADDRESS", "192.0.2.53"))
        assert build_parser().parse_args(words[1:]).command == words[1]


@pytest.mark.skipif(shutil.which("ss") is None, reason="there is no ss (iproute2) here")
def test_ss_names_who_has_a_port() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
        (line,) = [line for line in REMEDIES if " ss " in line]
        words = shlex.split(line.replace("{}", str(port)))[1:]  # one's own sockets need no sudo
        said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    assert f":{port} " in said
    assert "python" in said


@pytest.mark.skipif(shutil.which("ufw") is None, reason="there is no ufw here")
def test_ufw_takes_the_rule() -> None:
    for address in ("192.168.56.1", "fd00::1"):
        (line,) = [line for line in REMEDIES if " ufw " in line]
        words = shlex.split(line.replace("{}", address))[1:]
        said = subprocess.run([words[0], "--dry-run", *words[1:]], capture_output=True, text=True, check=False)
        if "root" in said.stderr:
            pytest.skip("ufw needs root")
        assert said.returncode == 0, said.stderr
        assert f"-d {address}" in said.stdout
        assert "--dport 53" in said.stdout


@pytest.mark.skipif(shutil.which("systemd-machine-id-setup") is None, reason="there is no systemd here")
def test_a_copy_gets_a_machine_id_of_its_own(tmp_path: Path) -> None:
    """In a folder that stands for the file system of the copy."""
    (line,) = [line for line in REMEDIES if "machine-id" in line]
    file = tmp_path / "etc" / "machine-id"
    file.parent.mkdir()
    file.write_text("0" * 31 + "1\n")
    inside = line.replace("/etc/machine-id", shlex.quote(str(file)))
    inside = inside.replace("machine-id-setup", f"machine-id-setup --root={shlex.quote(str(tmp_path))}")
    subprocess.run(inside, shell=True, check=True, capture_output=True, timeout=60)
    assert re.fullmatch(r"[0-9a-f]{32}\n", file.read_text())
    assert file.read_text() != "0" * 31 + "1\n"
