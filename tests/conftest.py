"""What tests of several rooms share."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path: pytest's own are near the longest one that a Unix socket may have."""
    with tempfile.TemporaryDirectory(prefix="v", dir=None if sys.platform == "win32" else "/tmp") as folder:
        yield Path(folder)
