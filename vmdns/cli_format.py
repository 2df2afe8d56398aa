"""How commands show things: responses of the control channel in, lines of text out.

Names and texts of VMs come from outside: every cell goes through `safe` before it reaches a terminal.
"""

from __future__ import annotations

import datetime
import json
import shutil
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vmdns.dns.escape import escape_text
from vmdns.state.facts import Network

GAP = "  "
MIN_COLUMN = 4
_COLOURS = {"ok": 32, "listening": 32, "waiting": 33, "stale": 33, "failing": 31, "failed": 31}


class Style(NamedTuple):
    """What the terminal can show: columns (0 for no limit), and colour."""

    width: int = 0
    colour: bool = False


def style_of(terminal: bool, environ: Mapping[str, str], system: str) -> Style:
    """The style for standard output: plain and without bound unless it is a terminal (https://no-color.org)."""
    if not terminal:
        return Style()
    plain = environ.get("NO_COLOR") or environ.get("TERM") == "dumb"
    # The old console of Windows shows escape sequences as they are.
    able = system != "win32" or "WT_SESSION" in environ
    return Style(shutil.get_terminal_size().columns, able and not plain)


def _width(text: str) -> int:
    """Columns that a text takes: two for wide characters, none for those that combine (Unicode TR 11)."""
    if text.isascii():
        return len(text)
    return sum(
        2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.category(char) in ("Mn", "Me") else 1
        for char in text
    )


def _cut(text: str, width: int) -> str:
    if _width(text) <= width:
        return text
    while text and _width(text) > width - 3:
        text = text[:-1]
    return text + "..."


def paint(text: str, code: int, style: Style) -> str:
    """The text in a colour or weight (SGR code), where the style has any."""
    return f"\x1b[{code}m{text}\x1b[0m" if style.colour else text


def table(head: Sequence[str], rows: Iterable[Sequence[object]], style: Style) -> list[str]:
    """Aligned columns below a head, the widest ones cut until the table fits."""
    cells = [list(head), *([escape_text(cell) for cell in row] for row in rows)]
    widths = [max(_width(row[at]) for row in cells) for at in range(len(head))]
    over = sum(widths) + len(GAP) * (len(widths) - 1) - style.width if style.width else 0
    while over > 0 and max(widths) > MIN_COLUMN:
        widths[widths.index(max(widths))] -= 1
        over -= 1
    lines = []
    for number, row in enumerate(cells):
        shown = []
        for cell, width in zip(row, widths, strict=True):
            text = _cut(cell, width)
            code = 1 if number == 0 else _COLOURS.get(cell, 0)
            shown.append((paint(text, code, style) if code else text) + " " * (width - _width(text)))
        lines.append(GAP.join(shown).rstrip())
    return lines


def age(since: float) -> str:
    """The time since then (Unix seconds) in its largest unit."""
    seconds = max(0, time.time() - since)
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds // 1:.0f} s"


def network(value: Mapping[str, str]) -> str:
    """A network as VirtualBox's window calls it."""
    return Network(value.get("kind", ""), value.get("name", "")).title


def names(response: Mapping[str, Any], style: Style) -> list[str]:
    """The table of `vmdns names`."""
    rows = []
    for one in response["names"]:
        found = [
            [at["address"], network(at["network"]), age(at["since"]) if at["since"] else "", at["why"]]
            for at in one["addresses"]
        ]
        found += [[rule["text"], "", "", f"port-forward rule {rule['rule']}"] for rule in one.get("forwards", ())]
        found = found or [["-", "", "", ""]]
        found[0][-1] = "; ".join(filter(None, [found[0][-1], one.get("note", "")]))
        rows += [[one.get("shown", one["name"]) if not number else "", *row] for number, row in enumerate(found)]
    if rows:
        lines = table(("NAME", "ADDRESS", "NETWORK", "AGE", "WHY"), rows, style)
    else:
        lines = ["No VM is running that has a name."]
    first, *others = response["zones"]
    if rows and others:
        lines += ["", escape_text(f"The same names end in {' and '.join(others)} as well as in {first}.")]
    return lines + _problems(response, style)


def _problems(response: Mapping[str, Any], style: Style) -> list[str]:
    found = response.get("problems") or []
    return ["", *(paint("!", 33, style) + " " + escape_text(one) for one in found)] if found else []


def change(line: Mapping[str, Any], style: Style) -> str:
    """One line of `vmdns names --watch`."""
    at = datetime.datetime.fromtimestamp(line["at"]).strftime("%H:%M:%S")
    sign, code = {"appeared": ("+", 32), "gone": ("-", 31)}.get(line["change"], ("~", 33))
    found = [f"{one['address']} ({network(one['network'])})" for one in line["addresses"]]
    addresses = ", ".join(found + [rule["text"] for rule in line.get("forwards", ())])
    parts = [line.get("shown", line["name"])]
    if line["change"] != "gone":
        parts.append(addresses or "no address known yet")
    was = [line["was_name"]] if line.get("was_name", line["name"]) != line["name"] else []
    was += line["was"] if line["was"] != [one["address"] for one in line["addresses"]] else []
    if was:
        parts.append(f"(was {', '.join(was)})")
    if line["why"]:
        parts.append(f"[{line['why']}]")
    return f"{at} {paint(sign, code, style)} {escape_text('  '.join(parts))}"


def answer(response: Mapping[str, Any], client: str | None, style: Style) -> list[str]:
    """The answer of `vmdns ask` as a table, or why there is none in words; then the reasons."""
    records = [(record.split(maxsplit=4) + [""] * 5)[:5] for record in response["answer"]]
    rows = [(name.removesuffix("."), kind, value, f"{ttl} s") for name, ttl, _, kind, value in records]
    if rows:
        lines = table(("NAME", "TYPE", "ANSWER", "TTL"), rows, style)
        if response["extended_error"]:
            lines.append(escape_text(response["extended_error"]))
    else:
        lines = [paint(escape_text(response["summary"]), 1, style)]
    notes = [response["note"], f"asked as {client}" if client else "", *response["why"]]
    notes = [one for one in notes if one and one not in response["summary"]]
    return [*lines, *([""] if notes else []), *(escape_text(f"- {one}") for one in notes)]


def dig(response: Mapping[str, Any], client: str | None, style: Style) -> list[str]:
    """The answer of `vmdns ask --dig`, in dig's way."""
    asked = f", asked as {client}" if client else ""
    lines = [paint(escape_text(f";; {response['question']}: {response['rcode']}{asked}"), 1, style)]
    lines += [escape_text(record) for record in response["answer"]]
    for record in response.get("authority", []):
        parts = record.split()
        if len(parts) == 11 and parts[3] == "SOA":
            kept = min(int(parts[1]), int(parts[10]))  # RFC 2308 section 5
            record = f"{parts[0]} SOA serial {parts[6]}, absence is remembered for {kept} s"
        lines.append(escape_text(f";; authority: {record}"))
    if response.get("extended_error"):
        lines.append(escape_text(f";; extended error: {response['extended_error']}"))
    return lines + [escape_text(f";; why: {one}") for one in response.get("why", [])]


def status(response: Mapping[str, Any], style: Style) -> list[str]:
    """The pages of `vmdns status`."""
    zones = " and ".join(response["zones"])
    lines = [
        paint(escape_text(response["verdict"]), 1, style),
        escape_text(
            f"vmdns {response['version']}, process {response['pid']}, up {age(response['started'])}, "
            f"zones {zones}, serial {response['serial']}"
        ),
    ]
    rows: list[tuple[object, ...]]
    rows = [(one["address"], one["port"], one["state"], one["detail"]) for one in response["listeners"]]
    lines += ["", *table(("LISTENER", "PORT", "STATE", "DETAIL"), rows, style)]
    box = response["virtualbox"]
    rows = [(box["version"] or "-", box["reader"] or "-", box["home"] or "-", box["state"], box["detail"])]
    lines += ["", *table(("VIRTUALBOX", "READER", "SETTINGS", "STATE", "DETAIL"), rows, style)]
    rows = [
        (
            one["name"],
            one["state"],
            one["facts"],
            age(one["since"]),
            one["detail"] * (one["detail"] != box["detail"]),
        )
        for one in response["sources"]
    ]
    lines += ["", *table(("SOURCE", "STATE", "FACTS", "SINCE", "DETAIL"), rows, style)]
    if response["upstreams"]:
        rows = [
            (one["address"], one["asked"], one["answered"], one["failed"], _milliseconds(one), one["error"])
            for one in response["upstreams"]
        ]
        lines += ["", *table(("UPSTREAM", "ASKED", "ANSWERED", "FAILED", "ROUND TRIP", "ERROR"), rows, style)]
    counts = [f"{count} {name.replace('_', ' ')}" for name, count in response["counts"].items()]
    if response["datagrams"]:
        counts.append(f"datagrams taken {response['datagrams']}")
    return [*lines, "", escape_text(", ".join(counts)), *_problems(response, style)]


def plan(response: Mapping[str, Any], style: Style) -> list[str]:
    """The steps of a plan with the command lines that do the same, what is left as it is, and notes."""
    lines = []
    for number, step in enumerate(response["steps"], 1):
        lines.append(paint(escape_text(f"{number}. {step['what']}"), 1, style))
        for command in step["commands"]:
            # A here-document stands flush left, so that it can be copied.
            indent = "" if "\n" in command else "   "
            lines += [indent + escape_text(line) for line in command.splitlines()]
    lines += [paint("!", 33, style) + " " + escape_text(one) for one in response["left"]]
    lines += [escape_text(f"- {one}") for one in response["notes"]]
    return lines or ["Nothing to do."]


def changes(response: Mapping[str, Any], command: str, style: Style) -> list[str]:
    """What a command that changes settings shows: its plan and how to do it. What was done was logged already, so only
    what is left and notes follow."""
    steps = response["steps"]
    if not response["done"]:
        return plan(response, style) + ([f"Do it with: vmdns {command} --apply"] if steps else [])
    nothing_to_say = steps and not (response["left"] or response["notes"])
    return [] if nothing_to_say else plan({**response, "steps": []}, style)


def wire(response: Mapping[str, Any], style: Style) -> list[str]:
    """What `vmdns wire` shows: each network with what its guests are given and shall be, and the steps to it."""
    steps = [step for one in response["networks"] for step in one["steps"]]
    if response["done"]:
        if not (response["changed"] or response["left"]):
            return ["Nothing to do."]
        return changes({**response, "steps": response["changed"]}, "wire", style)
    rows = [
        (one["title"], " ".join(one["now"]) or "nothing", one["wanted"] if one["steps"] else "as it is")
        for one in response["networks"]
    ]
    lines = [*table(("NETWORK", "GUESTS ARE GIVEN", "SHALL BE GIVEN"), rows, style), ""] if rows else []
    rest = changes({**response, "steps": steps}, "wire", style)
    return [*lines, *rest] if steps or not response["notes"] else [*lines, *rest, "Nothing to do."]


def hosts(response: Mapping[str, Any], style: Style) -> list[str]:
    """What `vmdns hosts` shows: the block, and whether it is in the file."""
    lines = [escape_text(line).replace("\\t", "\t") for line in response["block"] or ()]
    written = response["done"] or response["block"] == response["before"]
    if response["block"] is None:
        return [f"There are no lines of vmdns in {response['file']}."]
    verb = "are in" if written else "would be written to"
    return [
        *lines,
        "" if lines else "No VM is running that this computer reaches.",
        f"These names {verb} {response['file']}.",
    ]


def service(response: Mapping[str, Any], style: Style) -> list[str]:
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
    lines = [paint(escape_text(f"{response['service']} {state}{disabled}"), 1, style)]
    return [*lines, *(escape_text(f"  {line}") for line in response["log"])]


def _milliseconds(upstream: Mapping[str, Any]) -> str:
    taken = upstream.get("round_trip_ms")
    return "-" if taken is None else f"{taken:g} ms"


def doctor(response: Mapping[str, Any], style: Style) -> list[str]:
    """What `vmdns doctor` found: a line each, and below it the command that fixes it; at the end the verdict."""
    marks = {"ok": ("ok", 32), "warning": ("?", 33), "problem": ("!", 31)}
    lines = []
    for one in response["findings"]:
        mark, code = marks[one["level"]]
        lines.append(f"{paint(f'{mark:2}', code, style)} {escape_text(one['subject'])}: {escape_text(one['text'])}")
        if one["command"]:
            lines.append("      " + escape_text(one["command"]))
    return [*lines, "", f"{escape_text(response['verdict'])}."]


def config(response: Mapping[str, Any], style: Style) -> list[str]:
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
