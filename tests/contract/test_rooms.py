"""The rules of the house: the direction of imports, and that only the command line prints."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vmdns

ROOT = Path(vmdns.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# What pure rooms may not do: wait, talk, read files or the clock, start things, draw lots, log.
IMPURE = frozenset(
    {
        "asyncio", "glob", "io", "logging", "multiprocessing", "os", "pathlib", "queue", "random", "secrets",
        "selectors", "shutil", "signal", "socket", "ssl", "subprocess", "sys", "tempfile", "threading", "time",
    }
)  # fmt: skip
LIBRARIES = frozenset({"dns", "idna"})  # that pure rooms may use
# What each room may import beside itself. daemon, commands and the files above the rooms join them.
ALLOWED = {
    "dns": (),
    "files": (),
    "windows": (),
    "state": ("dns",),
    "sources": ("dns", "state", "files", "windows"),
    "server": ("dns", "state", "files", "windows"),
    "mdns": ("dns", "state", "windows"),
    "host": ("dns", "state", "files", "windows"),
    "control": ("dns", "state", "files", "windows"),
    "demo": ("dns", "state", "sources"),  # a simulated VirtualBox stands where sources read the real one
}
PURE = frozenset({"dns", "state"})
PRINT = frozenset({"cli.py", "cli_format.py"})
# These start programs on other systems only. On Windows, one that has a console opens a window where vmdns has none.
NOT_ON_WINDOWS = frozenset({"neighbours.py"})


def room(file: Path) -> str:
    """`dns`, `state`, ...; '' for the files above the rooms."""
    parts = file.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else ""


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported, wherever in the file, with the names that may be modules themselves."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def broken(file: Path, source: str) -> list[str]:
    """What in this file breaks the rules."""
    where, found = room(file), []
    tree = ast.parse(source)
    for name in imported(tree):
        top, _, rest = name.partition(".")
        pure = top in LIBRARIES or (top in sys.stdlib_module_names and top not in IMPURE)
        if where in PURE and top != "vmdns" and not pure:
            found.append(f"{where} imports {name}")
        if where in ALLOWED and top == "vmdns" and rest.split(".")[0] not in (where, *ALLOWED[where]):
            found.append(f"{where} imports {name}")
    if where != "windows":  # other systems never load it
        top_level = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        names = (name for name in imported(top_level) if name.startswith("vmdns.windows"))
        found += [f"{name} is imported outside of a function" for name in names]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("subprocess.run", "subprocess.Popen"):
            flags = any(one.arg == "creationflags" for one in node.keywords)
            found += [] if flags or file.name in NOT_ON_WINDOWS else [f"line {node.lineno} may open a console window"]
    if file.relative_to(ROOT).as_posix() not in PRINT:
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        found += [f"it calls {name}" for name in ("print", "input", "sys.stdout.write") if name in called]
    return found


MOST_LINES = 400


def test_no_file_is_longer_than_400_lines() -> None:
    long = {
        file.relative_to(ROOT).as_posix()
        for file in FILES
        if len(file.read_text(encoding="utf-8").splitlines()) > MOST_LINES
    }
    assert long == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_the_rules_are_kept(file: Path) -> None:
    assert broken(file, file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source", "what"),
    [
        ("dns/x.py", "import asyncio", "dns imports asyncio"),
        ("state/x.py", "def f():\n    import os.path", "state imports os.path"),
        ("dns/x.py", "from vmdns.state import facts", "dns imports vmdns.state.facts"),
        ("state/x.py", "from vmdns import store", "state imports vmdns.store"),
        ("state/x.py", "from vmdns.files import read_regular", "state imports vmdns.files.read_regular"),
        ("server/x.py", "from vmdns.mdns import links", "server imports vmdns.mdns.links"),
        ("sources/x.py", "import vmdns.daemon.app", "sources imports vmdns.daemon.app"),
        (
            "host/x.py", "from vmdns.windows import ip_helper",
            "vmdns.windows.ip_helper is imported outside of a function",
        ),
        ("files/x.py", "def f():\n    import vmdns.windows.ip_helper", "files imports vmdns.windows.ip_helper"),
        ("host/x.py", "subprocess.run(['netsh'])", "line 1 may open a console window"),
        ("host/x.py", "print('x')", "it calls print"),
        ("store.py", "import sys\nsys.stdout.write('x')", "it calls sys.stdout.write"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_found(file: str, source: str, what: str) -> None:
    assert broken(ROOT / file, source) == [what]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("dns/x.py", "import re\nimport dns.name\nimport idna\nfrom vmdns.dns.name import label"),
        ("server/x.py", "import asyncio\nfrom vmdns.dns import message\nfrom vmdns.server.listeners import bind"),
        ("daemon/app.py", "from vmdns.server.dns_server import DnsServer\nfrom vmdns.sources import hosts_file"),
        ("host/x.py", "def f():\n    from vmdns.windows import ip_helper"),
        ("demo/x.py", "from vmdns.state.facts import Fact\nfrom vmdns.sources.reader import fact_key"),
        ("cli.py", "print('x')"),
    ],
)
def test_what_is_allowed(file: str, source: str) -> None:
    assert broken(ROOT / file, source) == []


def test_all_rooms_were_looked_at() -> None:
    assert {room(file) for file in FILES} == {"", "daemon", "commands", *ALLOWED}
