"""A VirtualBox of files: its VBoxManage changes VirtualBox.xml as the real one does, and runs nothing.

What `vmdns wire` calls, and the command lines that are named as remedies. What the real one does differently is for
tests/live to find.
"""

from __future__ import annotations

import sys
from pathlib import Path

_PROGRAM = r"""#!{python}
import os, re, sys
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
if words[0] in ("controlvm", "modifyvm"):
    shown = os.path.join(home, "showvminfo-" + words[1])
    with open(shown) as info:
        text = info.read()
    running = 'VMState="running"' in text
    if running != (words[0] == "controlvm"):
        fail("Machine is not running" if not running else "The machine is already locked for a session")
    set_value = lambda key, value: re.sub(r'(?m)^%s=".*"$' % key, '%s="%s"' % (key, value), text)
    if link := re.fullmatch("setlinkstate([1-8])", words[2]):
        assert words[3] in ("on", "off"), words
        text = set_value("cableconnected" + link[1], words[3])
    elif rule := re.fullmatch("natpf([1-8])", words[2]):
        name, protocol, host, port, guest, inner = words[3].split(",")
        assert protocol in ("tcp", "udp") and port.isdigit() and inner.isdigit(), words
        text = re.sub(r'(?m)^(nic%s="nat")$' % rule[1], r'\1\nForwarding(0)="%s"' % words[3], text)
    elif mac := re.fullmatch("--mac-address([1-8])=auto", words[2]):
        text = set_value("macaddress" + mac[1], "0800270A0B0C")
    elif nic := re.fullmatch("--nic([1-8])=(nat|natnetwork|hostonly|bridged|intnet|none)", words[2]):
        text += 'macaddress{{0}}="0800270A0B0D"\ncableconnected{{0}}="on"\nnic{{0}}="{{1}}"\n'.format(nic[1], nic[2])
    else:
        fail("Unknown option " + words[2])
    with open(shown, "w") as info:
        info.write(text)
    sys.exit(0)
if words[:2] == ["natnetwork", "modify"]:
    given = dict(zip(words[2::2], words[3::2]))
    networks = tree.getroot().find(f"{{space}}Global/{{space}}NetserviceRegistry/{{space}}NATNetworks")
    (net,) = [one for one in networks if one.get("networkName") == given.pop("--netname")]
    for option, value in given.items():
        if option == "--dhcp":
            net.set("needDhcp", {{"on": "1", "off": "0"}}[value])
        elif option == "--loopback-4":
            address, offset = value.split("=")
            mappings = net.find(space + "Mappings")
            xml.SubElement(mappings, space + "Loopback4", address=address, offset=offset)
        else:
            fail("Unknown option " + option)
    save()
    sys.exit(0)
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
