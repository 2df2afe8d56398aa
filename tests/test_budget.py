"""What `vmdns run` imports once it is ready: nothing that is not on the list, which is kept beside this file.

Each module costs CPU time at the start and memory for as long as it runs. Who needs one more puts it on the list, after
having thought of importing it where it is used (for commands, VMs or systems that not everybody has).
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.bench.light import imported

ROOT = Path(__file__).resolve().parents[1]
LIST = Path(__file__).with_name("modules.txt")
RECORDED = (3, 11)  # other versions of Python have other modules behind the same ones


@pytest.mark.skipif(sys.platform != "linux", reason="the list is that of Linux")
def test_run_imports_what_is_on_the_list_and_no_more(tmp_path: Path) -> None:
    allowed = set(LIST.read_text().split())
    found = imported(ROOT, tmp_path)
    assert "vmdns.serve.udp" in found
    ours = {module for module in found if module.partition(".")[0] == "vmdns"}
    outer = {module.partition(".")[0] for module in found} - {"vmdns", "sitecustomize", "usercustomize"}
    if sys.version_info[:2] != RECORDED:
        outer -= sys.stdlib_module_names
    # The interpreter's own, and what was tried and is not there.
    outer = {name for name in outer if not name.startswith("_") and importlib.util.find_spec(name) is not None}
    new = sorted((ours | outer) - allowed)
    assert not new, f"`vmdns run` imports what is not in {LIST.name}: {', '.join(new)}"


def test_what_is_dear_stays_away() -> None:
    listed = set(LIST.read_text().split())
    dear = {"virtualbox", "vmdns.wiring", "vmdns.hosting", "vmdns.doctor", "vmdns.completion", "vmdns.service", "xml"}
    assert not dear & listed
