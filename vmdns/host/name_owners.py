"""The file of name owners, so that a restart of vmdns changes no name.

A JSON object from names below a zone to UUIDs. Without the file, or where it is damaged, names are assigned as if vmdns
had never run.
"""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import Callable
from pathlib import Path

from vmdns.files import read_whole, replace_file
from vmdns.state.name_rules import Owners

MAX_BYTES = 8_000_000  # 20,000 names of the greatest length


class NameOwners:
    """Reads and writes the owners. path None: they are not stored. log gets a line for the user.

    trouble: why the file is not used; '' if it is used or does not exist yet.
    """

    def __init__(self, path: Path | None, log: Callable[[str], None]) -> None:
        self._path = path
        self._log = log
        self.trouble = ""
        self._written: Owners = {}
        self._wanted: Owners = {}
        self._failure = ""  # that was logged last
        self._task: asyncio.Task[None] | None = None

    def read(self) -> Owners:
        """The stored owners; none if the file is damaged."""
        try:
            if self._path is not None:
                self._written = self._wanted = read_owners(self._path)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self.trouble = f"{self._path} is not used, and will be written again: {error}"
        return self._written

    def keep(self, owners: Owners) -> None:
        """Writes these owners soon, in a thread."""
        if owners is self._wanted or self._path is None:
            return
        self._wanted = owners
        if self._task is None and owners != self._written:
            self._task = asyncio.get_running_loop().create_task(self._write(self._path))

    async def close(self) -> None:
        """Waits until everything is written."""
        if self._task is not None:
            await self._task

    async def _write(self, path: Path) -> None:
        try:
            while self._wanted != self._written:
                owners = self._wanted
                await asyncio.to_thread(write_owners, path, owners)
                self._written, self._failure = owners, ""
        except OSError as error:
            if str(error) != self._failure:
                self._log(f"names of VMs are not remembered over a restart of vmdns: {error}")
            self._failure = str(error)
        finally:
            self._task = None


def read_owners(path: Path) -> Owners:
    """The owners in a file. Raises OSError, and ValueError for an invalid file."""
    try:
        names = json.loads(read_whole(path, MAX_BYTES))["names"]
        return {tuple(name.split(".")): uuid.lower() for name, uuid in names.items()}
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EFBIG):
            raise ValueError("it is no file of vmdns") from None
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError("it is damaged") from None


def write_owners(path: Path, owners: Owners) -> None:
    """Replaces the file. Raises OSError."""
    text = json.dumps({"names": {".".join(name): uuid for name, uuid in owners.items()}}, indent=0, sort_keys=True)
    replace_file(path, text.encode())
