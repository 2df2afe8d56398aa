"""The configuration in force, and its reload: a valid file is applied at once, an invalid one changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from vmdns.config import Config, ConfigError, ConfigMissing, Options, load

# An editor that empties the file before it writes has written within this time.
REWRITE_SECONDS = 0.2


class ConfigReload:
    """Holds the configuration in force.

    apply is called with the configuration before, after a new one took its place. error: why the file as it is now is
    not in force, "" where it is.
    """

    def __init__(
        self,
        config: Config,
        path: Path,
        options: Options,
        apply: Callable[[Config], None],
        log: Callable[[str], None],
    ) -> None:
        self.config = config
        self.path = path
        self.error = ""
        self._options = options
        self._apply = apply
        self._log = log
        self._reading = asyncio.Lock()  # one read at a time, so that the newest content wins

    def current(self) -> Config:
        """The configuration in force."""
        return self.config

    async def read(self) -> None:
        """Reads the file in a thread and applies it."""
        async with self._reading:
            try:
                config = await asyncio.to_thread(self._load)
            except ConfigError as error:
                if str(error) != self.error:
                    self._log(f"{error}; the configuration before stays in force")
                self.error = str(error)
                return
            self.error = ""
            if config != self.config:
                before, self.config = self.config, config
                self._apply(before)
                self._log(f"the configuration was read again: {self.path}")

    def _load(self) -> Config:
        with contextlib.suppress(OSError):
            if self.path.stat().st_size == 0:
                time.sleep(REWRITE_SECONDS)
        try:
            config = load(self.path)
        except ConfigMissing:
            config = Config()
        return config.with_options(self._options)
