"""Commands that do more than ask the running server: how they end, and how the user calls them."""

from __future__ import annotations

import os
import shutil
import sys

DONE, FAILED, USAGE, NOT_RUNNING = 0, 1, 2, 3


class CommandError(Exception):
    """Ends the command: "what is wrong; what to do" goes to standard error, and status is the exit status."""

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(text)
        self.status = status
        self.what, _, self.remedy = text.partition("; ")


def command_name() -> str:
    """`vmdns`, or the path that the user typed where vmdns is not in PATH (`.venv/bin/vmdns` after `tools/run`)."""
    if os.path.basename(sys.argv[0]) != "vmdns" or shutil.which("vmdns"):
        return "vmdns"
    return sys.argv[0]
