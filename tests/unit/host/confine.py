"""Runs a command as the [Service] section of a unit file says, without systemd; as root, in its own mount namespace.

    python confine.py UNIT UID COMMAND...

User=, capabilities, NoNewPrivileges=, system calls, address families, memory and what of the file system can be
written are as the unit says. Not played: PrivateTmp= and InaccessiblePaths= (the tests' own files are in /tmp),
PrivateDevices=, namespaces but for the calls that make them, and what only says how systemd starts and ends it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_ALLOW = 0x7FFF0000
_EQUAL = 4
_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}
_MDWE, _MDWE_REFUSE = 65, 1
_SYSTEM = ("unshare", "setns")


class _Compare(ctypes.Structure):
    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def directives(text: str) -> dict[str, list[str]]:
    """The words of each directive of the [Service] section, of all its lines together; ~ before each that it is for."""
    found: dict[str, list[str]] = {}
    for line in text.partition("[Service]\n")[2].partition("\n[")[0].splitlines():
        key, _, value = line.partition("=")
        if value and not line.startswith("#"):
            sign = "~" if value.startswith("~") else ""
            found.setdefault(key, []).extend(sign + word for word in value.lstrip("~").split())
    return found


def calls(names: Iterable[str]) -> set[str]:
    """The system calls in these sets, as the systemd here knows them."""
    found: set[str] = set()
    for name in names:
        if not name.startswith("@"):
            found.add(name)
            continue
        said = subprocess.run(["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True)
        found |= calls(line.strip() for line in said.stdout.splitlines()[1:] if line[:1] == " " and "#" not in line)
    return found


def allowed(unit: dict[str, list[str]]) -> set[str]:
    """The system calls that a unit leaves."""
    found: set[str] = set()
    for word in unit["SystemCallFilter"]:
        found = found - calls([word[1:]]) if word.startswith("~") else found | calls([word])
    return found


def filter_calls(names: set[str], families: list[int]) -> None:
    """Only these from now on, and sockets of these families alone; others fail with EPERM (EAFNOSUPPORT)."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(0x00050000 | errno.EPERM))
    for name in sorted(names - set(_SYSTEM)):
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            continue  # of other processors
        if name == "socket":
            for family in families:
                only = _Compare(0, _EQUAL, family, 0)
                assert library.seccomp_rule_add_array(context, _ALLOW, number, 1, ctypes.byref(only)) == 0
        else:
            assert library.seccomp_rule_add(context, _ALLOW, number, 0) == 0
    assert library.seccomp_load(context) == 0


def prepare(unit: dict[str, list[str]]) -> None:
    """What takes root: nothing can be written but for ReadWritePaths=, and of /proc there are processes alone."""
    if unit.get("ProtectSystem") == ["strict"]:
        with open("/proc/self/mounts", encoding="utf-8") as file:
            places = [line.split()[1] for line in file]
        writable = [path.lstrip("-") for path in unit.get("ReadWritePaths", ())]
        for path in writable:
            subprocess.run(["mount", "--bind", path, path], check=True)
        for place in places:
            if not place.startswith(("/proc", "/sys", "/dev")):
                subprocess.run(["mount", "-o", "remount,bind,ro", place], check=False, capture_output=True)
    if unit.get("ProcSubset") == ["pid"]:
        subprocess.run(["mount", "-t", "proc", "-o", "subset=pid,hidepid=invisible", "proc", "/proc"], check=True)


def main() -> None:
    if sys.argv[1] == "--inside":
        unit = directives(Path(sys.argv[2]).read_text("utf-8"))
        library = ctypes.CDLL(None)
        if unit.get("MemoryDenyWriteExecute") == ["yes"]:
            library.prctl(_MDWE, _MDWE_REFUSE, 0, 0, 0)  # a kernel before 6.3 knows it not
        filter_calls(set(sys.argv[3].split(",")), [_FAMILIES[one] for one in unit["RestrictAddressFamilies"]])
        os.execv(sys.argv[4], sys.argv[4:])
    file, uid, command = sys.argv[1], sys.argv[2], sys.argv[3:]
    unit = directives(Path(file).read_text("utf-8"))
    names = ",".join(sorted(allowed(unit)))
    prepare(unit)
    caps = ",".join(["-all", *(f"+{one.removeprefix('CAP_').lower()}" for one in unit["CapabilityBoundingSet"])])
    assert unit["AmbientCapabilities"] == unit["CapabilityBoundingSet"]
    assert unit["NoNewPrivileges"] == ["yes"]
    setpriv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"]
    setpriv += [f"--inh-caps={caps}", f"--ambient-caps={caps}", f"--bounding-set={caps}"]
    inside = [sys.executable, os.path.abspath(__file__), "--inside", file, names, *command]
    os.execvp("setpriv", [*setpriv, "--", *inside])


if __name__ == "__main__":
    main()
