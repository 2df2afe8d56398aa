"""What `vmdns run` imports once it is ready: no library that is not on the list, and nothing that only commands need.

Each module costs CPU time at the start and memory for as long as it runs. A library that only some users need is
imported where it is used.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("modules.txt")
RECORDED = (3, 11)  # other versions of Python have other modules behind the same ones


# Each of these stands for all that a command imports beside it.
COMMANDS = {
    "virtualbox",
    "vmdns.commands.wire",
    "vmdns.commands.host",
    "vmdns.commands.doctor",
    "argcomplete",
    "vmdns.commands.service",
    "xml",
}


def imported(folder: Path) -> list[str]:
    """The modules that `vmdns run` has imported once it is ready."""
    log = folder / "imports"
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "vmdns", "run", "--listen", "127.0.0.1:0"],
        cwd=ROOT, env={"PATH": "", "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=log.open("w"), text=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready"):
            break
    process.terminate()
    process.communicate(timeout=30)
    lines = [line for line in log.read_text().splitlines() if line.startswith("import time:")]
    return [line.rpartition("|")[2].strip() for line in lines[1:]]


@pytest.mark.skipif(sys.platform != "linux", reason="the list is that of Linux")
def test_run_imports_no_more_than_it_needs(tmp_path: Path) -> None:
    allowed = set(LIST.read_text().split())
    found = imported(tmp_path)
    assert "vmdns.server.udp" in found
    outer = {module.partition(".")[0] for module in found} - {"vmdns", "sitecustomize", "usercustomize"}
    if sys.version_info[:2] != RECORDED:
        outer -= sys.stdlib_module_names
    # The interpreter's own, and what was tried and is not there.
    outer = {name for name in outer if not name.startswith("_") and importlib.util.find_spec(name) is not None}
    new = sorted(outer - allowed)
    assert not new, f"`vmdns run` imports what is not in {LIST.name}: {', '.join(new)}"
    assert not COMMANDS & set(found)
