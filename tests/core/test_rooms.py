"""The rules of the house: which room may import what, and that only the commands print."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vmdns

ROOT = Path(vmdns.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# What core may not do: wait, talk, read files or the clock, start things, draw lots, log.
IMPURE = frozenset(
    {
        "asyncio", "glob", "io", "logging", "multiprocessing", "os", "pathlib", "queue", "random", "secrets",
        "selectors", "shutil", "signal", "socket", "ssl", "subprocess", "sys", "tempfile", "threading", "time",
    }
)  # fmt: skip
KEPT = frozenset({"dns", "idna"})  # the libraries that core may use
SHARED = ("vmdns.regularfile.",)  # what all rooms but core may use
PRINT = frozenset({"cli.py", "show.py"})
MORE = {"demo": "vmdns.sources."}  # a simulated VirtualBox stands where sources read the real one


def room(file: Path) -> str:
    """`core`, `sources`, ...; '' for the files that join the rooms."""
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
        top = name.split(".")[0]
        pure = top in KEPT or (top in sys.stdlib_module_names and top not in IMPURE)
        if where == "core" and top != "vmdns" and not pure:
            found.append(f"core imports {name}")
        allowed = ("vmdns.core.", f"vmdns.{where}.", MORE.get(where, "vmdns.core."))
        allowed += SHARED if where != "core" else ()
        if where and top == "vmdns" and not name.startswith(allowed):
            found.append(f"{where} imports {name}")
    if file.relative_to(ROOT).as_posix() not in PRINT:
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        found += [f"it calls {name}" for name in ("print", "input", "sys.stdout.write") if name in called]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_the_rules_are_kept(file: Path) -> None:
    assert broken(file, file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source", "what"),
    [
        ("core/x.py", "import asyncio", "core imports asyncio"),
        ("core/x.py", "def f():\n    import os.path", "core imports os.path"),
        ("core/x.py", "from time import time", "core imports time.time"),
        ("core/x.py", "import watchdog.events", "core imports watchdog.events"),
        ("core/x.py", "import requests", "core imports requests"),
        ("core/x.py", "from vmdns.serve import dns", "core imports vmdns.serve.dns"),
        ("core/x.py", "from vmdns import table", "core imports vmdns.table"),
        ("core/x.py", "from vmdns.regularfile import read_regular", "core imports vmdns.regularfile.read_regular"),
        ("serve/x.py", "from vmdns.sources import files", "serve imports vmdns.sources.files"),
        ("sources/x.py", "import vmdns.app", "sources imports vmdns.app"),
        ("demo/x.py", "from vmdns.serve.dns import DnsServer", "demo imports vmdns.serve.dns.DnsServer"),
        ("sources/x.py", "from vmdns.demo import reader", "sources imports vmdns.demo.reader"),
        ("host/x.py", "print('x')", "it calls print"),
        ("table.py", "import sys\nsys.stdout.write('x')", "it calls sys.stdout.write"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_found(file: str, source: str, what: str) -> None:
    assert broken(ROOT / file, source) == [what]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("core/x.py", "import re\nimport dns.name\nimport idna\nfrom vmdns.core.name import label"),
        ("serve/x.py", "import asyncio\nfrom vmdns.core import wire\nfrom vmdns.serve.listeners import bind"),
        ("app.py", "from vmdns.serve.dns import DnsServer\nfrom vmdns.sources import hostsfile"),
        ("demo/x.py", "from vmdns.core.model import Fact\nfrom vmdns.sources.reader import key"),
        ("cli.py", "print('x')"),
    ],
)
def test_what_is_allowed(file: str, source: str) -> None:
    assert broken(ROOT / file, source) == []


def test_all_rooms_were_looked_at() -> None:
    assert {room(file) for file in FILES} >= {"", "core", "sources", "serve", "host", "demo"}
