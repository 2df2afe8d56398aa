"""`vmdns`, and `python -m vmdns`."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Runs one command. Ctrl-C ends the process, without a traceback, unless the command handles it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from vmdns.cli import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
