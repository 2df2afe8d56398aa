"""Scripts that complete vmdns' commands in a shell, made from the parser, so that they cannot differ from it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Option(NamedTuple):
    """One option: value is "" for a flag, else what to complete: "words", "FILE", "DIR" or "text"."""

    flags: tuple[str, ...]
    about: str
    value: str
    words: tuple[str, ...]
    repeats: bool


class Command(NamedTuple):
    """One command; words are what its first argument may be."""

    name: str
    about: str
    options: tuple[Option, ...]
    words: tuple[str, ...]


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for bash, zsh, fish or powershell. Raises KeyError for another shell."""
    makers: dict[str, Callable[[Sequence[Option], Sequence[Command]], str]] = {
        "bash": _bash,
        "zsh": _zsh,
        "fish": _fish,
        "powershell": _powershell,
    }
    return makers[shell](_options(parser), _commands(parser))


def _options(parser: argparse.ArgumentParser) -> tuple[Option, ...]:
    return tuple(_option(action) for action in parser._actions if action.option_strings)


def _option(action: argparse.Action) -> Option:
    words = tuple(str(choice) for choice in action.choices or ())
    value = "words" if words else {"FILE": "FILE", "DIR": "DIR"}.get(str(action.metavar), "text")
    repeats = isinstance(action, argparse._AppendAction)
    return Option(tuple(action.option_strings), action.help or "", "" if action.nargs == 0 else value, words, repeats)


def _commands(parser: argparse.ArgumentParser) -> tuple[Command, ...]:
    (subparsers,) = (one for one in parser._actions if isinstance(one, argparse._SubParsersAction))
    abouts = {one.dest: one.help or "" for one in subparsers._choices_actions}
    return tuple(Command(name, abouts[name], _options(one), _words(one)) for name, one in subparsers.choices.items())


def _words(parser: argparse.ArgumentParser) -> tuple[str, ...]:
    return tuple(
        str(choice) for action in parser._actions if not action.option_strings for choice in action.choices or ()
    )


_BASH = """\
# vmdns completion bash
_vmdns() {{
    local IFS=$'\\n' current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command= word words=
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $word in {names}) command=$word; break;; esac
    done
    COMPREPLY=()
    case "$command $before" in
{values}
    esac
    case $command in
{commands}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -F _vmdns vmdns
"""


def _bash(options: Sequence[Option], commands: Sequence[Command]) -> str:
    reply = {
        "FILE": 'compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$current")); return',
        "DIR": 'compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -d -- "$current")); return',
        "text": "return",
    }
    values, cases = [], []
    for command in (Command("", "", tuple(options), tuple(one.name for one in commands)), *commands):
        for option in command.options:
            if option.value:
                known = f'COMPREPLY=($(compgen -W {_ansi(option.words)} -- "$current")); return'
                when = "|".join(f'"{command.name} {flag}"' for flag in option.flags)
                values.append(f"        {when}) {reply.get(option.value, known)};;")
        flags = [flag for option in command.options for flag in option.flags]
        cases.append(f'        "{command.name}") words={_ansi((*command.words, *flags))};;')
    names = "|".join(one.name for one in commands)
    return _BASH.format(names=names, values="\n".join(values), commands="\n".join(cases))


def _ansi(words: Sequence[str]) -> str:
    """The words as one bash text, split at line ends."""
    return "$'" + "\\n".join(words) + "'"


def _zsh(options: Sequence[Option], commands: Sequence[Command]) -> str:
    lines = ["#compdef vmdns", "_vmdns() {", "    local context state state_descr line", "    typeset -A opt_args"]
    first = " ".join([*(_zsh_option(one) for one in options), "'1:command:->command'", "'*::argument:->argument'"])
    lines += [
        f"    _arguments -C {first}",
        "    case $state in",
        "    command)",
        "        local -a commands",
        "        commands=(",
    ]
    lines += [f"            {_quote(one.name + ':' + one.about)}" for one in commands]
    lines += ["        )", "        _describe command commands;;", "    argument)", "        case $words[1] in"]
    for command in commands:
        specs = [_zsh_option(one) for one in command.options]
        specs += [_quote(f"1:{command.name}:({' '.join(command.words)})")] if command.words else []
        lines.append(f"        {command.name}) _arguments {' '.join(specs)};;")
    lines += ["        esac;;", "    esac", "}"]
    # Run when zsh loads it from $fpath, registered when it is sourced.
    lines += ['if [ "$funcstack[1]" = "_vmdns" ]; then _vmdns "$@"; else compdef _vmdns vmdns; fi']
    return "\n".join(lines) + "\n"


def _zsh_option(option: Option) -> str:
    about = option.about
    for char in "\\[]:":
        about = about.replace(char, "\\" + char)
    action = {"FILE": ":file:_files", "DIR": ":folder:_directories", "text": ":value:", "": ""}
    value = action.get(option.value, f":value:({' '.join(option.words)})")
    own = "*" if option.repeats else f"({' '.join(option.flags)})"
    return " ".join(_quote(f"{own}{flag}[{about}]{value}") for flag in option.flags)


def _quote(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish(options: Sequence[Option], commands: Sequence[Command]) -> str:
    lines = ["complete -c vmdns -f"]
    lines += [_fish_option("__fish_use_subcommand", one) for one in options]
    for command in commands:
        lines.append(f"complete -c vmdns -n __fish_use_subcommand -a {command.name} -d {_fish_text(command.about)}")
        given = f"__fish_seen_subcommand_from {command.name}"
        lines += [_fish_option(given, one) for one in command.options]
        if command.words:
            lines.append(f"complete -c vmdns -n {_fish_text(given)} -a {_fish_text(' '.join(command.words))}")
    return "\n".join(lines) + "\n"


def _fish_option(when: str, option: Option) -> str:
    flags = [f"-l {one[2:]}" if one.startswith("--") else f"-s {one[1:]}" for one in option.flags]
    value = {"FILE": "-r -F", "DIR": "-x -a '(__fish_complete_directories)'", "text": "-x", "": ""}
    shown = value.get(option.value, f"-x -a {_fish_text(' '.join(option.words))}")
    parts = ["complete -c vmdns -n", _fish_text(when), *flags, shown, "-d", _fish_text(option.about)]
    return " ".join(part for part in parts if part)


def _fish_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_POWERSHELL = """\
# vmdns completion powershell
Register-ArgumentCompleter -Native -CommandName vmdns -ScriptBlock {{
    param($word, $ast, $cursor)
    $words = @{{
{words}
    }}
    $values = @{{
{values}
    }}
    $given = @($ast.CommandElements | Where-Object {{ $_.Extent.EndOffset -lt $cursor }} | ForEach-Object {{ "$_" }})
    $command = @($given | Select-Object -Skip 1 | Where-Object {{ $_ -and $words.ContainsKey($_) }})[0]
    $last = "$command $($given[-1])"
    $found = if ($values.ContainsKey($last)) {{ $values[$last] }} else {{ $words["$command"] }}
    $found | Where-Object {{ $_.StartsWith($word) }} | ForEach-Object {{
        [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
    }}
}}
"""


def _powershell(options: Sequence[Option], commands: Sequence[Command]) -> str:
    words, values = [], []
    for command in (Command("", "", tuple(options), tuple(one.name for one in commands)), *commands):
        flags = [flag for option in command.options for flag in option.flags]
        words.append(f"        '{command.name}' = {_array((*command.words, *flags))}")
        for option in command.options:
            # An empty list leaves files and folders to PowerShell itself.
            values += [
                f"        '{command.name} {flag}' = {_array(option.words)}" for flag in option.flags if option.value
            ]
    return _POWERSHELL.format(words="\n".join(words), values="\n".join(values))


def _array(words: Sequence[str]) -> str:
    return "@(" + ", ".join(f"'{word}'" for word in words) + ")"
