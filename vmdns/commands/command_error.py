"""How commands end: their exit statuses, and the error that ends one."""

from __future__ import annotations

DONE, FAILED, USAGE, NOT_RUNNING = 0, 1, 2, 3


class CommandError(Exception):
    """Ends the command: the text goes to standard error, status is the exit status."""

    def __init__(self, text: str, status: int = FAILED) -> None:
        super().__init__(text)
        self.status = status
