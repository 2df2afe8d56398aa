"""How commands show things: responses of the control channel in, lines of text out.

Names and texts of VMs come from outside: everything is escaped in `render`, before it reaches a terminal.
"""

from __future__ import annotations

import datetime
import json
import shutil
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vmdns.commands import command_name
from vmdns.dns.escape import escape_text
from vmdns.state.facts import Network

GAP = "  "
MIN_COLUMN = 4
BOLD, RED, GREEN, YELLOW = 1, 31, 32, 33  # ECMA-48, SGR
_COLOURS = {"ok": GREEN, "listening": GREEN, "waiting": YELLOW, "stale": YELLOW, "failing": RED, "failed": RED}

Response = Mapping[str, Any]


class Style(NamedTuple):
    """What the terminal can show: columns (0 for no limit), and colour."""

    width: int = 0
    colour: bool = False


class Table(NamedTuple):
    """Aligned columns below a head."""

    head: Sequence[str]
    rows: Iterable[Sequence[object]]


# A line, as text or as texts each in a colour or weight (0 for none); or a table.
Part = str | tuple[tuple[str, int], ...] | Table


def style_of(terminal: bool, colours: bool, environ: Mapping[str, str]) -> Style:
    """The style for standard output: plain and without bound unless it is a terminal (https://no-color.org).

    colours: whether it knows escape sequences.
    """
    if not terminal:
        return Style()
    plain = environ.get("NO_COLOR") or environ.get("TERM") == "dumb"
    return Style(shutil.get_terminal_size().columns, colours and not plain)


def render(parts: Iterable[Part], style: Style) -> list[str]:
    """The parts as lines for a terminal of this style."""
    lines = []
    for part in parts:
        if isinstance(part, Table):
            lines += _render_table(part, style)
        else:
            spans = ((part, 0),) if isinstance(part, str) else part
            lines.append("".join(_paint(escape_text(text), code, style) for text, code in spans))
    return lines


def _paint(text: str, code: int, style: Style) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if code and style.colour else text


def _render_table(part: Table, style: Style) -> list[str]:
    """The widest columns are cut until the table fits."""
    cells = [list(part.head), *([escape_text(cell) for cell in row] for row in part.rows)]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    over = sum(widths) + len(GAP) * (len(widths) - 1) - style.width if style.width else 0
    while over > 0 and max(widths) > MIN_COLUMN:
        widths[widths.index(max(widths))] -= 1
        over -= 1
    lines = []
    for number, row in enumerate(cells):
        shown = []
        for cell, width in zip(row, widths, strict=True):
            text = _cut(cell, width)
            code = _COLOURS.get(cell, 0) if number else BOLD
            shown.append(_paint(text, code, style) + " " * (width - _width(text)))
        lines.append(GAP.join(shown).rstrip())
    return lines


def _width(text: str) -> int:
    """Columns that a text takes: two for wide characters, none for those that combine (Unicode TR 11)."""
    if text.isascii():
        return len(text)
    return sum(
        2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.category(char) in ("Mn", "Me") else 1
        for char in text
    )


def _cut(text: str, width: int) -> str:
    cut = text
    while cut and _width(text) > width and _width(cut) > width - 3:
        cut = cut[:-1]
    return text if cut == text else cut + "..."


def _bold(text: str) -> Part:
    return ((text, BOLD),)


def _warn(texts: Iterable[str]) -> list[Part]:
    return [(("!", YELLOW), (f" {text}", 0)) for text in texts]


def age(since: float) -> str:
    """The time since then (Unix seconds) in its largest unit."""
    seconds = max(0, time.time() - since)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds // 1:.0f} s"


def names(response: Response) -> list[Part]:
    """The table of `vmdns names`."""
    rows = []
    for one in response["names"]:
        found = [
            [at["address"], Network(**at["network"]).title, age(at["since"]) if at["since"] else "", at["why"]]
            for at in one["addresses"]
        ]
        found += [[rule["text"], "", "", f"port-forward rule {rule['rule']}"] for rule in one.get("forwards", ())]
        found = found or [["-", "", "", ""]]
        found[0][-1] = "; ".join(filter(None, [found[0][-1], one.get("note", "")]))
        rows += [[one.get("shown", one["name"]) if not number else "", *row] for number, row in enumerate(found)]
    parts: list[Part] = ["No VM is running that has a name."]
    first, *others = response["zones"]
    if rows:
        parts = [Table(("NAME", "ADDRESS", "NETWORK", "AGE", "WHY"), rows)]
    if rows and others:
        parts += ["", f"The same names end in {' and '.join(others)} as well as in {first}."]
    return parts + _problems(response)


def _problems(response: Response) -> list[Part]:
    found = response.get("problems")
    return ["", *_warn(found)] if found else []


def change(line: Response) -> Part:
    """One line of `vmdns names --watch`."""
    at = datetime.datetime.fromtimestamp(line["at"]).strftime("%H:%M:%S")
    sign = {"appeared": ("+", GREEN), "gone": ("-", RED)}.get(line["change"], ("~", YELLOW))
    found = [f"{one['address']} ({Network(**one['network']).title})" for one in line["addresses"]]
    found += [rule["text"] for rule in line.get("forwards", ())]
    words = [line.get("shown", line["name"])]
    if line["change"] != "gone":
        words.append(", ".join(found) or "no address known yet")
    was = [line["was_name"]] if line.get("was_name", line["name"]) != line["name"] else []
    was += line["was"] if line["was"] != [one["address"] for one in line["addresses"]] else []
    words += [f"(was {', '.join(was)})"] if was else []
    words += [f"[{line['why']}]"] if line["why"] else []
    return ((f"{at} ", 0), sign, (f" {'  '.join(words)}", 0))


def answer(response: Response, client: str | None) -> list[Part]:
    """The answer of `vmdns ask` as a table, or why there is none in words; then the reasons."""
    records = [(record.split(maxsplit=4) + [""] * 5)[:5] for record in response["answer"]]
    rows = [(name.removesuffix("."), kind, value, f"{ttl} s") for name, ttl, _, kind, value in records]
    parts: list[Part] = [_bold(response["summary"])]
    if rows:
        parts = [Table(("NAME", "TYPE", "ANSWER", "TTL"), rows), *filter(None, [response["extended_error"]])]
    notes = [response["note"], f"asked as {client}" if client else "", *response["why"]]
    notes = [f"- {one}" for one in notes if one and one not in response["summary"]]
    return [*parts, "", *notes] if notes else parts


def dig(response: Response, client: str | None) -> list[Part]:
    """The answer of `vmdns ask --dig`, in dig's way."""
    asked = f", asked as {client}" if client else ""
    parts: list[Part] = [_bold(f";; {response['question']}: {response['rcode']}{asked}"), *response["answer"]]
    for record in response.get("authority", []):
        words = record.split()
        if len(words) == 11 and words[3] == "SOA":
            kept = min(int(words[1]), int(words[10]))  # RFC 2308 section 5
            record = f"{words[0]} SOA serial {words[6]}, absence is remembered for {kept} s"
        parts.append(f";; authority: {record}")
    if response.get("extended_error"):
        parts.append(f";; extended error: {response['extended_error']}")
    return parts + [f";; why: {one}" for one in response.get("why", [])]


def status(response: Response) -> list[Part]:
    """The pages of `vmdns status`."""
    box = response["virtualbox"]
    about = f"vmdns {response['version']}, process {response['pid']}, up {age(response['started'])}"
    parts: list[Part] = [
        _bold(response["verdict"]),
        f"{about}, zones {' and '.join(response['zones'])}, serial {response['serial']}",
    ]
    sources = [
        {**one, "since": age(one["since"]), "detail": one["detail"] if one["detail"] != box["detail"] else ""}
        for one in response["sources"]
    ]
    trips = [(one, one.get("round_trip_ms")) for one in response["upstreams"]]
    upstreams = [{**one, "round_trip": "-" if trip is None else f"{trip:g} ms"} for one, trip in trips]
    boxes = [{**box, **{key: box[key] or "-" for key in ("version", "reader", "home")}}]
    for items, first, columns in (
        (response["listeners"], "LISTENER", "address port state detail"),
        (boxes, "VIRTUALBOX", "version reader home state detail"),
        (sources, "SOURCE", "name state facts since detail"),
        (upstreams, "UPSTREAM", "address asked answered failed round_trip error"),
    ):
        if items or first != "UPSTREAM":
            keys = columns.split()
            head = [first, *(key.replace("home", "settings").replace("_", " ").upper() for key in keys[1:])]
            parts += ["", Table(head, [[one[key] for key in keys] for one in items])]
    counts = [f"{count} {name.replace('_', ' ')}" for name, count in response["counts"].items()]
    if response["datagrams"]:
        counts.append(f"datagrams taken {response['datagrams']}")
    return [*parts, "", ", ".join(counts), *_problems(response)]


def doctor(response: Response) -> list[Part]:
    """What `vmdns doctor` found: a line each, and below it the command that fixes it; at the end the verdict."""
    marks = {"ok": ("ok", GREEN), "warning": ("? ", YELLOW), "problem": ("! ", RED)}
    parts: list[Part] = []
    for one in response["findings"]:
        parts.append((marks[one["level"]], (f" {one['subject']}: {one['text']}", 0)))
        if one["command"]:
            parts.append(f"      {_as_called(one['command'])}")
    return [*parts, "", f"{response['verdict']}."]


def _as_called(command: str) -> str:
    """The command line with vmdns as the user calls it."""
    return command_name() + command.removeprefix("vmdns") if command.startswith("vmdns ") else command


def plan(response: Response) -> list[Part]:
    """The steps of a plan with the command lines that do the same, what is left as it is, and notes."""
    parts: list[Part] = []
    for number, step in enumerate(response["steps"], 1):
        parts.append(_bold(f"{number}. {step['what']}"))
        for command in step["commands"]:
            # A here-document stands flush left, so that it can be copied.
            indent = "" if "\n" in command else "   "
            parts += [indent + line for line in command.splitlines()]
    parts += [*_warn(response["left"]), *(f"- {one}" for one in response["notes"])]
    return parts or ["Nothing to do."]


def changes(response: Response, command: str) -> list[Part]:
    """What a command that changes settings shows: its plan and how to do it. What was done was logged already, so only
    what is left and notes follow."""
    steps = response["steps"]
    if not response["done"]:
        return plan(response) + ([f"Do it with: {command_name()} {command} --apply"] if steps else [])
    nothing_more = steps and not (response["left"] or response["notes"])
    return [] if nothing_more else plan({**response, "steps": []})


def wire(response: Response) -> list[Part]:
    """What `vmdns wire` shows: each network with what its guests are given and shall be, and the steps to it."""
    steps = [step for one in response["networks"] for step in one["steps"]]
    if response["done"]:
        if not (response["changed"] or response["left"]):
            return ["Nothing to do."]
        return changes({**response, "steps": response["changed"]}, "wire")
    rows = [
        (one["title"], " ".join(one["now"]) or "nothing", one["wanted"] if one["steps"] else "as it is")
        for one in response["networks"]
    ]
    parts: list[Part] = [Table(("NETWORK", "GUESTS ARE GIVEN", "SHALL BE GIVEN"), rows), ""] if rows else []
    parts += changes({**response, "steps": steps}, "wire")
    return parts if steps or not response["notes"] else [*parts, "Nothing to do."]


def hosts(response: Response) -> list[Part]:
    """What `vmdns hosts` shows: the block, and whether it is in the file."""
    block, file = response["block"], response["file"]
    if block is None:
        return [f"There are no lines of vmdns in {file}."]
    verb = "are in" if response["done"] or block == response["before"] else "would be written to"
    lines = [line.replace("\t", GAP) for line in block]
    return [*lines, "" if lines else "No VM is running that this computer reaches.", f"These names {verb} {file}."]


def service(response: Response) -> list[Part]:
    """What `vmdns service status` shows: a line, and the last lines of the log."""
    if response["running"]:
        since = f", up {age(response['since'])}" if response["since"] else ""
        pid = f", process {response['pid']}" if response["pid"] else ""
        state = f"runs{since}{pid}"
    elif response["installed"]:
        state = f"does not run{': ' if response['detail'] else ''}{response['detail']}"
    else:
        state = "is not installed; install it with: vmdns service install"
    disabled = ", and is not started at log-in" if response["installed"] and not response["enabled"] else ""
    return [_bold(f"{response['service']} {state}{disabled}"), *(f"  {line}" for line in response["log"])]


def config(response: Response) -> list[str]:
    """What `vmdns config` shows: the values in force as a vmdns.toml, each with its meaning, default, range and origin,
    and what is chosen where the value leaves that open."""
    from vmdns.config import KEYS, Config, values_in_force
    from vmdns.dns.limits import LIMITS

    values, default = response["values"], values_in_force(Config())
    out = []
    for key in KEYS:
        if key not in ("forward", "limits"):
            out += [f"# {_sentence(KEYS[key]['about'])} Default: {_toml(default[key]['value'])}"]
            out += [*_origin(values[key]), f"{key} = {_toml(values[key]['value'])}", ""]
    out += [f"# {_sentence(KEYS['forward']['about'])} Default: none", *_origin(values["forward"]), "[forward]"]
    out += [f"{_quoted(domain)} = {_toml(upstreams)}" for domain, upstreams in values["forward"]["value"].items()]
    out += ["", f"# {_sentence(KEYS['limits']['about'])}", "[limits]"]
    for key, limit in LIMITS.items():
        value = values[f"limits.{key}"]
        out += [f"# {_sentence(limit.about)}"]
        out += [f"# Default: {limit.default:.10g} {limit.unit}, from {limit.least:.10g} to {limit.most:.10g}"]
        out += [*_origin(value), f"{key} = {_toml(value['value'])}"]
    return out


def _origin(value: Mapping[str, Any]) -> list[str]:
    lines = [] if value["from"] == "default" else [f"# Set by {escape_text(value['from'])}"]
    return lines + ([f"# In force now: {escape_text(value['now'])}"] if value.get("now") else [])


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _toml(value: object) -> str:
    """A value as TOML: texts of several lines as literal strings where those can hold them (TOML 1.0)."""
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if not isinstance(value, str):
        return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)
    plain = "\n" in value and all(char in "\n\t" or char >= " " for char in value.replace("\x7f", "\0"))
    return f"'''\n{value}'''" if plain and "'''" not in value and value[-1] != "'" else _quoted(value)


def _quoted(text: str) -> str:
    """The text as a TOML basic string. JSON's escapes are all TOML's too, but TOML also escapes DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
