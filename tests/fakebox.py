"""A VirtualBox of files: its VBoxManage changes VirtualBox.xml as the real one does, and runs nothing.

Only what `vmdns wire` calls. What the real one does differently is for tests/live/test_wire.py to find.
"""

from __future__ import annotations

import sys
from pathlib import Path

_PROGRAM = r"""#!{python}
import os, sys
from xml.etree import ElementTree as xml

home = os.environ["VBOX_USER_HOME"]
file = os.path.join(home, "VirtualBox.xml")
words = sys.argv[1:]
with open(os.path.join(home, "asked"), "a") as log:
    log.write(repr((words, os.environ.get("LC_ALL"))) + "\n")
space = "{{http://www.virtualbox.org/}}"
xml.register_namespace("", "http://www.virtualbox.org/")
tree = xml.parse(file)
servers = tree.getroot().find(f"{{space}}Global/{{space}}NetserviceRegistry/{{space}}DHCPServers")


def fail(text, code=""):
    sys.stderr.write(f"VBoxManage: error: {{text}}\n")
    if code:
        sys.stderr.write(f"VBoxManage: error: Details: code NS_ERROR_FAILURE ({{code}}), component DHCPServerWrap\n")
    sys.exit(1)


def save():
    for one in tree.iter():
        if not len(one):
            one.text = None
    xml.indent(tree)
    tree.write(file + "-tmp", encoding="utf-8", xml_declaration=True)
    os.replace(file + "-tmp", file)


def told(name):
    try:
        with open(os.path.join(home, name)) as said:
            sys.stdout.write(said.read())
    except FileNotFoundError:
        pass
    sys.exit(0)


if words == ["--version"]:
    print(os.environ.get("FAKE_VERSION", "7.2.22_Debianr175245"))
    sys.exit(0)
if words[0] in ("list", "showvminfo"):
    told("-".join(words[:2]))
assert words[0] == "dhcpserver", words
values = dict(word[2:].split("=", 1) for word in words[2:] if "=" in word and word.startswith("--"))
server = next((one for one in servers if one.get("networkName") == values["network"]), None)
if words[1] == "add":
    if server is not None:
        fail("DHCP server already exists")
    server = xml.SubElement(servers, space + "DHCPServer")
    keys = {{"networkName": "network", "IPAddress": "server-ip", "networkMask": "netmask",
            "lowerIP": "lower-ip", "upperIP": "upper-ip"}}
    for attribute, option in keys.items():
        server.set(attribute, values[option])
    server.set("enabled", "1" if "--enable" in words else "0")
    save()
    sys.exit(0)
if server is None:
    fail("Failed to find DHCP server for network '%s'" % values["network"])
if words[1] == "remove":
    servers.remove(server)
    save()
elif words[1] == "restart":
    if not os.path.exists(os.path.join(home, "running")):
        fail("Failed to restart the server", "0x80004005")
elif words[1] == "modify":
    group = None
    rest = iter(words[3:])
    for word in rest:
        option, _, value = word.partition("=")
        if option == "--lower-ip":
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
                fail("Unknown option " + word)
        save()
else:
    fail("Unknown command")
"""


class FakeBox:
    """A home with a VirtualBox.xml of these networks, and the environment in which its VBoxManage is found."""

    def __init__(self, folder: Path, text: str) -> None:
        self.home = folder / "home"
        self.program = folder / "program"
        for one in (self.home, self.program):
            one.mkdir(parents=True)
        vboxmanage = self.program / "VBoxManage"
        vboxmanage.write_text(_PROGRAM.format(python=sys.executable))
        vboxmanage.chmod(0o755)
        (self.program / "VBoxSVC").write_text("")
        self.file = self.home / "VirtualBox.xml"
        self.file.write_text(text)
        self.environ = {
            "VBOX_PROGRAM_PATH": str(self.program),
            "VBOX_USER_HOME": str(self.home),
            "HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CONFIG_HOME": str(folder / "config"),
        }

    @property
    def journal(self) -> Path:
        return next((Path(self.environ["XDG_STATE_HOME"]) / "vmdns").glob("journal*.json"))

    def says(self, words: str, text: str) -> None:
        """What `VBoxManage list ...` or `showvminfo UUID` prints from now on."""
        (self.home / words.replace(" ", "-")).write_text(text)

    def runs(self, running: bool) -> None:
        """Whether DHCP servers run."""
        if running:
            (self.home / "running").touch()
        else:
            (self.home / "running").unlink(missing_ok=True)

    def asked(self, verb: str) -> list[str]:
        """The calls of `dhcpserver VERB` until now, with `--network=` and what follows."""
        try:
            lines = [eval(line) for line in (self.home / "asked").read_text().splitlines()]
        except FileNotFoundError:
            return []
        assert {locale for _, locale in lines} <= {"C.UTF-8", "C.utf8"}
        return [" ".join(words[2:]) for words, _ in lines if words[:2] == ["dhcpserver", verb]]
