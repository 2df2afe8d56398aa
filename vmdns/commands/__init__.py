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
    program = sys.argv[0]
    if os.path.basename(program) != "vmdns" or shutil.which("vmdns"):
        return "vmdns"
    # The launcher of Windows gives the whole path, which PowerShell runs only with & and quotes if it has a space.
    if sys.platform == "win32" and os.path.normcase(program).startswith(os.path.normcase(os.getcwd()) + os.sep):
        return os.path.relpath(program)
    return program
