"""Every case that has an id is tested under it: the table's rows, and tests that have it in their names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.contract.behaviour.mdns_rows import ROWS as MDNS
from tests.contract.behaviour.test_table import ROWS

TESTS = Path(__file__).parents[2]
DOCS = [TESTS.parent / "README.md", *sorted((TESTS.parent / "docs").glob("*.md"))]


# Cases whose ids are not in the names of the tests that hold them.
ELSEWHERE = {
    "X04": ("unit/state/test_build.py", "test_all_addresses_of_a_vm_are_at_its_name_once_with_one_ttl"),
    "X05": ("unit/state/test_build.py", "test_a_vm_named_like_an_alias"),
    "X06": ("unit/state/test_build.py", "test_a_vm_renamed_in_letters_alone_is_the_same_owner"),
    "X11": ("unit/mdns/test_responder.py", "test_a_new_name_is_probed_for_and_announced"),
    "X12": ("unit/mdns/test_responder.py", "test_a_new_name_is_probed_for_and_announced"),
    "X13": ("unit/mdns/test_responder.py", "test_a_goodbye_to_all_at_the_end"),
    "X14": ("unit/mdns/test_responder.py", "test_another_address_is_announced_in_place_of_the_old_one"),
    "X15": ("unit/mdns/test_responder.py", "test_of_two_simultaneous_probes_the_one_with_the_later_data_goes_on"),
    "X16": ("unit/mdns/test_responder.py", "test_a_name_that_another_host_defends_is_left_to_it_and_reported_once"),
    "X17": ("unit/mdns/test_responder.py", "test_known_answers_may_come_in_several_packets"),
    "X18": ("live/test_mdns.py", "test_strangers_get_nothing"),
    "X19": ("unit/mdns/test_links.py", "test_each_link_has_its_own_addresses_of_names_of_two_labels"),
}


def _tests() -> Iterator[tuple[str, str]]:
    """The file and the name of every test."""
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield path.relative_to(TESTS).as_posix(), node.name


def test_every_case_with_a_clock_is_there() -> None:
    tests = set(_tests())
    named = {one.upper() for _, name in tests for one in re.findall(r"(?<=_)x\d\d(?=_)", name)}
    missing = {ident for ident, where in ELSEWHERE.items() if where not in tests}
    assert not missing
    found = named | ELSEWHERE.keys() | {row.id for row in ROWS if row.id[0] == "X"}
    assert found == {f"X{number:02}" for number in range(1, 25)}


def test_every_case_of_multicast_is_there() -> None:
    assert set(MDNS) == {f"M{number:02}" for number in range(1, 24)}


def test_x24_terms_are_those_of_the_rfc() -> None:
    """RFC 9499: what exists without records is NODATA; who only forwards is a forwarder."""
    wrong = re.compile(r"\b(nxrrset|slave|recursor)\b", re.I)
    for path in DOCS:
        assert not wrong.findall(path.read_text(encoding="utf-8")), path.name
    said = (TESTS.parent / "docs" / "names.md").read_text(encoding="utf-8")
    assert "NODATA is an answer without records" in said
