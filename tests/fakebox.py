"""A VirtualBox of files: its VBoxManage changes VirtualBox.xml as the real one does, and runs nothing.

What `vmdns wire` calls, and the command lines that are named as remedies. What the real one does differently is for
tests/live to find.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as xml

from tests.fakeprogram import SUFFIX, play_program, write_program

if TYPE_CHECKING:
    import pytest

_PROGRAM = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from tests.fakebox import call_vboxmanage
status, out, err = call_vboxmanage(sys.argv[1:], os.environ)
sys.stdout.buffer.write(out.encode())
sys.stderr.write(err)
sys.exit(status)
"""


class _Failure(Exception):
    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(f"VBoxManage: error: {text}\n")
        if code:
            self.args = (
                f"{self}VBoxManage: error: Details: code NS_ERROR_FAILURE ({code}), component DHCPServerWrap\n",
            )


def call_vboxmanage(words: list[str], environ: Mapping[str, str]) -> tuple[int, str, str]:
    """The exit status, standard output and standard error of VBoxManage with these arguments."""
    try:
        return 0, _run(words, environ), ""
    except _Failure as error:
        return 1, "", str(error)


def _run(words: list[str], environ: Mapping[str, str]) -> str:
    if words == ["--version"]:
        return environ.get("FAKE_VERSION", "7.2.22_Debianr175245") + "\n"
    home = environ["VBOX_USER_HOME"]
    file = os.path.join(home, "VirtualBox.xml")
    with open(os.path.join(home, "asked"), "a", encoding="utf-8") as log:
        log.write(repr((words, environ.get("LC_ALL"))) + "\n")
    if words[0] in ("list", "showvminfo"):
        name = os.path.join(home, "-".join(words[:2]))
        try:
            with open(name, encoding="utf-8") as said:
                return said.read()
        except FileNotFoundError:
            return ""
    if words[0] in ("controlvm", "modifyvm"):
        shown = os.path.join(home, "showvminfo-" + words[1])
        with open(shown, encoding="utf-8") as info:
            text = info.read()
        running = 'VMState="running"' in text
        if running != (words[0] == "controlvm"):
            raise _Failure("Machine is not running" if not running else "The machine is already locked for a session")

        def set_value(key: str, value: str) -> str:
            return re.sub(rf'(?m)^{key}=".*"$', f'{key}="{value}"', text)

        if link := re.fullmatch("setlinkstate([1-8])", words[2]):
            assert words[3] in ("on", "off"), words
            text = set_value("cableconnected" + link[1], words[3])
        elif rule := re.fullmatch("natpf([1-8])", words[2]):
            assert re.fullmatch("[^,]*,(tcp|udp),[^,]*,[0-9]+,[^,]*,[0-9]+", words[3]), words
            text = re.sub(rf'(?m)^(nic{rule[1]}="nat")$', rf'\1\nForwarding(0)="{words[3]}"', text)
        elif mac := re.fullmatch("--mac-address([1-8])=auto", words[2]):
            text = set_value("macaddress" + mac[1], "0800270A0B0C")
        elif nic := re.fullmatch("--nic([1-8])=(nat|natnetwork|hostonly|bridged|intnet|none)", words[2]):
            text += 'macaddress{0}="0800270A0B0D"\ncableconnected{0}="on"\nnic{0}="{1}"\n'.format(nic[1], nic[2])
        else:
            raise _Failure("Unknown option " + words[2])
        with open(shown, "w", encoding="utf-8") as info:
            info.write(text)
        return ""
    space = "{http://www.virtualbox.org/}"
    xml.register_namespace("", "http://www.virtualbox.org/")
    tree = xml.parse(file)
    servers = tree.getroot().find(f"{space}Global/{space}NetserviceRegistry/{space}DHCPServers")

    def save() -> None:
        for one in tree.iter():
            if not len(one):
                one.text = None
        xml.indent(tree)
        tree.write(file + "-tmp", encoding="utf-8", xml_declaration=True)
        os.replace(file + "-tmp", file)

    if words[:2] == ["natnetwork", "modify"]:
        given = dict(zip(words[2::2], words[3::2], strict=True))
        networks = tree.getroot().find(f"{space}Global/{space}NetserviceRegistry/{space}NATNetworks")
        (net,) = [one for one in networks if one.get("networkName") == given.pop("--netname")]
        for option, value in given.items():
            if option == "--dhcp":
                net.set("needDhcp", {"on": "1", "off": "0"}[value])
            elif option == "--loopback-4":
                address, offset = value.split("=")
                mappings = net.find(space + "Mappings")
                xml.SubElement(mappings, space + "Loopback4", address=address, offset=offset)
            else:
                raise _Failure("Unknown option " + option)
        save()
        return ""
    assert words[0] == "dhcpserver", words
    values = dict(word[2:].split("=", 1) for word in words[2:] if "=" in word and word.startswith("--"))
    server = next((one for one in servers if one.get("networkName") == values["network"]), None)
    if words[1] == "add":
        if server is not None:
            raise _Failure("DHCP server already exists")
        server = xml.SubElement(servers, space + "DHCPServer")
        keys = {
            "networkName": "network",
            "IPAddress": "server-ip",
            "networkMask": "netmask",
            "lowerIP": "lower-ip",
            "upperIP": "upper-ip",
        }
        for attribute, option in keys.items():
            server.set(attribute, values[option])
        server.set("enabled", "1" if "--enable" in words else "0")
        save()
        return ""
    if server is None:
        raise _Failure(f"Failed to find DHCP server for network '{values['network']}'")
    if words[1] == "remove":
        servers.remove(server)
        save()
    elif words[1] == "restart":
        if not os.path.exists(os.path.join(home, "running")):
            raise _Failure("Failed to restart the server", "0x80004005")
    elif words[1] == "modify":
        group = None
        rest = iter(words[3:])
        for word in rest:
            option, _, value = word.partition("=")
            if option in ("--enable", "--disable"):
                server.set("enabled", str(int(option == "--enable")))
            elif option == "--lower-ip":
                server.set("lowerIP", value)
            elif option == "--group":
                name = value
                group = next((one for one in server.iterfind(space + "Group") if one.get("name") == name), None)
            elif option == "--remove-config":
                if group is not None:
                    server.remove(group)
                group = None
            else:
                if group is None:
                    group = xml.SubElement(server, space + "Group", name=name)
                if option == "--incl-mac-wild":
                    xml.SubElement(group, space + "Condition", inclusive="true", type="1", value=value)
                elif option == "--set-opt":
                    text = next(rest)
                    xml.SubElement(group, space + "Option", name=value, value=text)
                else:
                    raise _Failure("Unknown option " + word)
            save()
    else:
        raise _Failure("Unknown command")
    return ""


class FakeBox:
    """A home with a VirtualBox.xml of these networks, and the environment in which its VBoxManage is found."""

    def __init__(self, folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = folder / "home"
        self.program = folder / "program"
        for one in (self.home, self.program):
            one.mkdir(parents=True)
        self.vboxmanage = write_program(self.program / "VBoxManage", _PROGRAM)
        play_program(monkeypatch, self.vboxmanage, call_vboxmanage)
        (self.program / f"VBoxSVC{SUFFIX}").write_text("")
        self.file = self.home / "VirtualBox.xml"
        self.file.write_text(text, "utf-8")
        self.environ = {
            "VBOX_PROGRAM_PATH": str(self.program),
            "VBOX_USER_HOME": str(self.home),
            **dict.fromkeys(("HOME", "USERPROFILE"), str(folder)),
            **dict.fromkeys(("XDG_STATE_HOME", "LOCALAPPDATA"), str(folder / "state")),
            **dict.fromkeys(("XDG_CONFIG_HOME", "APPDATA"), str(folder / "config")),
        }

    @property
    def journal(self) -> Path:
        return next((self.home.parent / "state" / "vmdns").glob("journal*.json"))

    def says(self, words: str, text: str) -> None:
        """What `VBoxManage list ...` or `showvminfo UUID` prints from now on."""
        (self.home / words.replace(" ", "-")).write_text(text, "utf-8")

    def runs(self, running: bool) -> None:
        """Whether DHCP servers run."""
        if running:
            (self.home / "running").touch()
        else:
            (self.home / "running").unlink(missing_ok=True)

    def asked(self, verb: str) -> list[str]:
        """The calls of `dhcpserver VERB` until now, with `--network=` and what follows."""
        try:
            lines = [eval(line) for line in (self.home / "asked").read_text("utf-8").splitlines()]
        except FileNotFoundError:
            return []
        assert os.name == "nt" or {locale for _, locale in lines} <= {"C.UTF-8", "C.utf8"}
        return [" ".join(words[2:]) for words, _ in lines if words[:2] == ["dhcpserver", verb]]
