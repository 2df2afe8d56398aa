"""The docs say what is: their commands parse, their links lead somewhere, what they name exists."""

from __future__ import annotations

import argparse
import re
import shlex
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmdns.cli_parser import build_parser
from vmdns.config import parse
from vmdns.state.name_rules import RESERVED

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SPAN = re.compile(r"`([^`]+)`")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks: language and content, continued lines joined."""
    return [(one[1], one[2].replace("\\\n", " ")) for one in FENCE.finditer(text)]


def spans(text: str) -> list[str]:
    """Code in the running text, each on one line, with the `|` of tables unescaped."""
    return [" ".join(one.split()).replace("\\|", "|") for one in SPAN.findall(FENCE.sub("", text))]


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every command line that begins with `vmdns `."""
    lines = [line for _, content in blocks(text) for line in content.splitlines()] + spans(text)
    for line in lines:
        if line.startswith("vmdns "):
            words = shlex.split(line, comments=True)[1:]
            yield ["run" if word == "COMMAND" else word for word in words if word != "..."]


def slug(title: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(title) for title in re.findall(r"^#+ (.+)$", FENCE.sub("", text_of(page)), re.M)}


def dead_links(page: Path, text: str) -> list[str]:
    """The relative links that lead nowhere."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        where, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (page.parent / where).resolve() if where else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            dead.append(link)
    return dead


def missing_files(text: str) -> list[str]:
    """The modules and files of this checkout that are named and do not exist."""
    named = set(re.findall(r"(?<![\w/.-])(?:[\w-]+/)*\w+\.py\b", text))
    places = [span.split()[0].partition("::")[0] for span in spans(text) if span.split()]
    named |= {place for place in places if re.match(r"(\./)?(tests|tools|docs|\.ci)/\w", place)}
    modules = {file.name for file in (ROOT / "vmdns").rglob("*.py")}
    return [
        one for one in sorted(named) if not (one in modules or (ROOT / one).exists() or (ROOT / "vmdns" / one).exists())
    ]


def parses(arguments: list[str]) -> bool:
    try:
        build_parser().parse_args(arguments)
    except SystemExit as end:
        return end.code == 0  # --help and --version
    return True


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_parse(page: Path) -> None:
    assert [line for line in commands(text_of(page)) if not parses(line)] == []


def test_every_command_is_in_the_readme() -> None:
    shown = {line[0] for line in commands(text_of(ROOT / "README.md"))}
    asking = {"run", "demo", "names", "ask", "status", "doctor", "config", "completion"}
    assert shown == asking | {"wire", "host", "hosts", "service"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page, text_of(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    assert missing_files(text_of(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_configurations_are_right(page: Path) -> None:
    for language, content in blocks(text_of(page)):
        if language == "toml":
            parse(content, name_of(page))


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\(([\w/]+\.md)", text_of(ROOT / "README.md")))
    assert linked == {name_of(page) for page in PAGES} - {"README.md"}


def test_the_test_command_is_the_one_that_ci_runs() -> None:
    lines = [line for _, content in blocks(text_of(ROOT / "README.md")) for line in content.splitlines()]
    assert [line for line in lines if "test" in line] == ["./tools/test"]
    assert "./tools/test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_the_configuration_page_has_every_option_of_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert parses(["run", "--help"])
    options = set(re.findall(r"^  (--[\w-]+)", capsys.readouterr().out, re.M))
    assert set(re.findall(r"^\| `(--[\w-]+)", text_of(ROOT / "docs" / "configuration.md"), re.M)) == options


@pytest.mark.parametrize("page", ["README.md", "docs/names.md"])
def test_reserved_names_are_all_said(page: str) -> None:
    paragraph = next(one for one in re.split(r"\n(?=- )", text_of(ROOT / page)) if one.startswith("- **Reserved**"))
    assert set(RESERVED) <= set(spans(paragraph))


def threats(text: str) -> dict[str, list[str]]:
    """The tests that each row of the table of threats names."""
    rows = re.findall(r"^\| (T\d+) \|.*\| ([^|]*) \|$", text, re.M)
    return {number: re.findall(r"`(tests/[\w/]+\.py::test_\w+)`", tests) for number, tests in rows}


def is_a_test(named: str) -> bool:
    file, _, function = named.partition("::")
    path = ROOT / file
    return path.exists() and re.search(rf"^(async )?def {function}\(", text_of(path), re.M) is not None


def test_each_threat_names_tests_that_exist() -> None:
    found = threats(text_of(ROOT / "docs" / "security.md"))
    assert list(found) == [f"T{number}" for number in range(1, 26)]
    assert [number for number, tests in found.items() if not tests] == []
    assert [one for tests in found.values() for one in tests if not is_a_test(one)] == []
    assert not is_a_test("tests/contract/test_docs.py::test_of_nothing")


def test_the_picture_is_a_picture() -> None:
    tags = {one.tag.rpartition("}")[2] for one in ElementTree.parse(ROOT / "docs" / "session.svg").iter()}
    assert "text" in tags
    assert not tags & {"script", "image", "foreignObject"}


def test_what_is_wrong_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A title, `code`\n[a](#a-title-code) [b](#other) [c](no.md) [d](https://example.org)\n"
        "`vmdns runn` and `vmdns ask web AAAA`, `core/nothing.py`, `tools/nothing`, `state/build.py`\n"
        "```sh\nvmdns names --wach  # a comment\nvmdns run \\\n    --listen 127.0.0.1\n```\n",
        encoding="utf-8",
    )
    text = text_of(page)
    assert [line for line in commands(text) if not parses(line)] == [["names", "--wach"], ["runn"]]
    assert ["run", "--listen", "127.0.0.1"] in list(commands(text))
    assert dead_links(page, text) == ["#other", "no.md"]
    assert missing_files(text) == ["core/nothing.py", "tools/nothing"]


def test_the_commands_with_json_are_all_said() -> None:
    (subparsers,) = (one for one in build_parser()._actions if isinstance(one, argparse._SubParsersAction))
    able = {name for name, one in subparsers.choices.items() if "--json" in one._option_string_actions}
    page = text_of(ROOT / "docs" / "troubleshooting.md")
    first, second, *_ = page.split("## In scripts")[1].strip().replace("\n", " ").split(". ")
    assert set(spans(first)) == able | {"--json"}
    assert set(spans(second)) == set(subparsers.choices) - able
