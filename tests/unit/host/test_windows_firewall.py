"""Windows Defender Firewall: which policies let queries in, by rules in the form of [MS-GPFAS] section 2.2.2."""

from __future__ import annotations

import sys
from uuid import uuid4

import pytest

from vmdns.host import elevation
from vmdns.host.windows_firewall import (
    PRIVATE,
    PUBLIC,
    RULES,
    describe_closed,
    find_closed,
    find_verdict,
    parse_rule,
)

LOCAL, GROUP = RULES.removesuffix(r"\FirewallRules"), r"SOFTWARE\Policies\Microsoft\WindowsFirewall"
PROGRAM = r"C:\Python311\python.exe"
UDP, TCP = 17, 6


def rule(text: str, action: str = "Allow") -> str:
    return f"v2.30|Action={action}|Active=TRUE|Dir=In|{text}|Name=x|Desc=a=b|EmbedCtxt=@x.dll,-1|Edge=FALSE|Defer=User|"


PORT = rule("Protocol=17|LPort=53")
# What Windows writes when it has asked its user about a program: a rule for each protocol.
PYTHON = rule(r"Protocol=17|Profile=Private|App=c:\python311\python.exe")
PYTHON_BLOCKED = rule(r"Protocol=17|Profile=Public|App=c:\python311\python.exe", "Block")


@pytest.mark.parametrize(
    ("rules", "public", "private"),
    [
        ([], False, False),
        ([PORT], True, True),
        ([PORT.replace("TRUE", "FALSE")], False, False),
        ([PORT.replace("Dir=In", "Dir=Out")], False, False),
        ([PYTHON], False, True),
        ([PYTHON, PYTHON_BLOCKED], False, True),
        ([PORT, PYTHON_BLOCKED], False, True),  # a block rule outranks
        ([PYTHON.replace("python.exe", "pythonw.exe")], False, False),  # another program
        ([PYTHON.replace("python.exe", "Scripts\\vmdns.exe")], False, False),  # a launcher, which listens nowhere
        ([rule("Profile=Public|Profile=Private")], True, True),  # all protocols, ports and programs
        ([rule("Protocol=6|LPort=53")], False, False),
        ([rule("Protocol=17|LPort=80|LPort=53")], True, True),
        ([rule("Protocol=17|LPort2_10=50-60")], True, True),
        ([rule("Protocol=17|LPort2_10=54-60")], False, False),
        ([rule("Protocol=17|LPort=RPC")], False, False),
        ([rule("Protocol=17|LPort=53|LA4=192.168.56.1")], True, True),
        ([rule("Protocol=17|LPort=53|LA4=192.168.57.1")], False, False),
        ([rule("Protocol=17|LPort=53|LA4=192.168.56.0/255.255.255.0")], True, True),
        ([rule("Protocol=17|LPort=53|LA4=192.168.56.0-192.168.56.9")], True, True),
        ([rule("Protocol=17|LPort=53|LA6=fd00::1")], False, False),
        ([rule("Protocol=17|LPort=53|RA42=LocalSubnet|RA62=LocalSubnet")], True, True),
        ([rule("Protocol=17|LPort=53|RA4=10.0.0.0/255.0.0.0")], False, False),
        ([rule("Protocol=17|LPort=53|Svc=Dnscache")], False, False),
        ([rule("Protocol=17|AppPkgId=S-1-15-2-1")], False, False),
        # Conditions that are not known here: neither let in nor kept out, unless another rule decides.
        ([rule("Protocol=17|LPort=53|IFType=Lan")], None, None),
        ([rule("Protocol=17|LPort=53|IFType=Lan"), PORT], True, True),
        ([rule("Protocol=17|LUAuth=O:LSD:", "Block"), PORT], None, None),
        (["", "v2.30", "v2.30|Active=TRUE|Dir=In", "|||==|"], False, False),
    ],
)
def test_rules(rules: list[str], public: bool | None, private: bool | None) -> None:
    registry: dict[str, dict[str, object]] = {RULES: {f"{{{at}}}": one for at, one in enumerate(rules)}}
    for profile, let_in in ((PUBLIC, public), (PRIVATE, private)):
        assert find_verdict(registry, profile, UDP, "192.168.56.1", PROGRAM).let_in is let_in


@pytest.mark.parametrize(
    ("values", "rules", "let_in"),
    [
        ({LOCAL: {"EnableFirewall": 0}}, [], True),
        ({LOCAL: {"EnableFirewall": 1, "DefaultInboundAction": 0}}, [], True),
        ({LOCAL: {"DefaultInboundAction": 0}}, [PYTHON_BLOCKED], False),
        ({LOCAL: {"DoNotAllowExceptions": 1}}, [PORT], False),
        ({LOCAL: {"EnableFirewall": 0}, GROUP: {"EnableFirewall": 1}}, [], False),
        ({LOCAL: {"EnableFirewall": 1}, GROUP: {"EnableFirewall": 0}}, [], True),
        ({GROUP: {"AllowLocalPolicyMerge": 0}}, [PORT], False),
    ],
)
def test_profiles(values: dict[str, dict[str, object]], rules: list[str], let_in: bool) -> None:
    registry = {rf"{base}\PublicProfile": one for base, one in values.items()}
    registry[RULES] = {f"{{{at}}}": one for at, one in enumerate(rules)}
    assert find_verdict(registry, PUBLIC, UDP, "192.168.56.1", PROGRAM).let_in is let_in


def test_a_rule_of_a_group_policy() -> None:
    registry = {
        rf"{GROUP}\FirewallRules": {"{1}": PORT}, rf"{GROUP}\PublicProfile": {"AllowLocalPolicyMerge": 0},
        RULES: {"{2}": PYTHON_BLOCKED},
    }  # fmt: skip
    assert find_verdict(registry, PUBLIC, UDP, "192.168.56.1", PROGRAM).let_in is True


def test_what_is_reported() -> None:
    def report(*rules: str) -> tuple[str, str] | None:
        registry = {RULES: {f"UDP Query User{{{at}}}it's": one for at, one in enumerate(rules)}}
        return describe_closed(find_closed(registry, ["192.168.56.1", "192.168.57.1"], PROGRAM))

    both = rule("LPort=53")
    assert report(both) is None
    assert report(rule("LPort=53|IFType=Lan")) is None, "what is not known is not reported"
    # UDP alone is not enough: truncated responses are asked again by TCP.
    name, command = report(PORT) or ("", "")
    assert name == "Windows Defender Firewall (in networks that are public and private to Windows)"
    assert command.endswith("-Protocol $_ -LocalAddress 192.168.56.1, 192.168.57.1 }")
    name, command = report(both, PYTHON_BLOCKED) or ("", "")
    assert name == "a block rule of Windows Defender Firewall (in networks that are public to Windows)"
    assert command == "Disable-NetFirewallRule -Name 'UDP Query User{1}it''s'"


def test_the_parts_of_a_rule() -> None:
    found = parse_rule("x", rule("LPort=53|LPort=54", "Block"))
    assert found is not None
    assert (found.action, found.fields["LPort"]) == ("block", ("53", "54"))


@pytest.mark.skipif(sys.platform != "win32", reason="the registry of Windows")
def test_keys_of_the_registry() -> None:
    if not elevation.is_elevated():
        pytest.skip("writing keys takes an administrator")
    import winreg

    from vmdns.windows.registry import read_key, read_tree

    path = rf"SOFTWARE\vmdns-test-{uuid4()}"
    with winreg.CreateKey(winreg.HKEY_LOCAL_MACHINE, rf"{path}\below") as key:
        winreg.SetValueEx(key, "rule", 0, winreg.REG_SZ, PORT)
        winreg.SetValueEx(key, "EnableFirewall", 0, winreg.REG_DWORD, 1)
    try:
        assert read_tree(path) == {path: {}, rf"{path}\below": {"rule": PORT, "EnableFirewall": 1}}
    finally:
        winreg.DeleteKey(winreg.HKEY_LOCAL_MACHINE, rf"{path}\below")
        winreg.DeleteKey(winreg.HKEY_LOCAL_MACHINE, path)
    assert read_tree(path) == {}
    with pytest.raises(FileNotFoundError):
        read_key(path)
