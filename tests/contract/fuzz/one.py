"""Fuzzes one target with atheris: python tests/contract/fuzz/one.py TARGET [options and folders of libFuzzer].

`run` calls it. By hand it minimises a corpus: one.py TARGET -merge=1 NEW_FOLDER OLD_FOLDER...
"""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))


def main() -> None:
    """Imports the target with its branches counted, and hands it to libFuzzer, which never returns."""
    logging.disable(logging.CRITICAL)
    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["vmdns", "tests.contract.fuzz.targets"]):
        check = import_module(f"tests.contract.fuzz.targets.{name}").check
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


main()
