"""How the user calls vmdns, for the commands that messages name."""

from __future__ import annotations

import os
import shutil
import sys


def command_name() -> str:
    """`vmdns`, or the path that the user typed where vmdns is not in PATH (`.venv/bin/vmdns` after `tools/run`)."""
    if os.path.basename(sys.argv[0]) != "vmdns" or shutil.which("vmdns"):
        return "vmdns"
    return sys.argv[0]
