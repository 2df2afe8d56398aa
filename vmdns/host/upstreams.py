"""The DNS servers that this host itself uses. What is found now; `watched` and POLL_SECONDS say when to look again."""

from __future__ import annotations

import sys
from pathlib import Path

from vmdns.core.upstream import Upstreams

if sys.platform == "win32":
    from vmdns.host import windows as system

    # The registry could be waited for, but not from a selector loop.
    POLL_SECONDS = 5.0
elif sys.platform == "darwin":
    from vmdns.host import macos as system

    POLL_SECONDS = 30.0
else:
    from vmdns.host import linux as system

    POLL_SECONDS = 0.0


def read_upstreams() -> Upstreams:
    """Looks now. May block for seconds: call it in a thread. Raises OSError with a text for the user."""
    return system.read()


def watched() -> list[Path]:
    """Folders (not their subfolders) in which a change means: look again."""
    if sys.platform == "win32":
        return []
    return system.watched()
