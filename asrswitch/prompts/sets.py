"""Sets of prompts: TOML files, ours or a user's, read and checked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from asrswitch.backend_choice import names_a_file
from asrswitch.errors import UsageError, printable
from asrswitch.toml_files import Presets, mistake, read_toml

PRESETS = Presets("prompts/sets")
_MOST_PROMPTS = 1000
_LONGEST_NAME = 60  # characters, as all of these; a name stands in tables
_LONGEST_TEXT = 100_000
_LONGEST_CHECK = 10_000
_LONG_STRING = re.compile(r"('''|\"\"\").*?\1", re.DOTALL)


class Check(msgspec.Struct, frozen=True):
    """How it is told whether an answer is right."""

    kind: Literal["exact", "pattern", "code"]
    expected: str  # the answer; a regular expression; statements that run after the answer's code


class Prompt(msgspec.Struct, frozen=True):
    """What a model is given."""

    name: str
    text: str
    check: Check | None = None


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of a prompt's table; its name is the prompt's."""

    text: str
    exact: str | None = None
    pattern: str | None = None
    code: str | None = None


def read_prompts(word: str) -> tuple[Prompt, ...]:
    """The prompts of a set that comes with asrswitch, or of a file, in its order.

    Args:
        word: as given to ``--prompts``: a set's name, or a path with a slash or with ``.toml`` at its end.

    Raises:
        UsageError: no such set, or something in the file is wrong, in one line with its file, line and key.
    """
    is_file = names_a_file(word)
    if not is_file and word not in PRESETS.names():
        known = ", ".join(PRESETS.names())
        raise UsageError(
            f"--prompts {printable(word)}: no set of prompts is called so; use {known}, or name a file"
        )
    path = Path(word) if is_file else PRESETS.path(word)
    text, tables = read_toml(path, "--prompts")
    if not tables:
        raise UsageError(printable(f"{path}: has no prompts; write a table for each, see docs/prompts.md"))
    if len(tables) > _MOST_PROMPTS:
        raise UsageError(
            printable(f"{path}: has {len(tables):,} prompts; {_MOST_PROMPTS:,} is the most, split it")
        )
    places = _without_strings(text)
    prompts = []
    for name, given in tables.items():
        problem = next(_name_problems(name), None)
        if problem is not None:
            raise mistake(path, places, name, problem)
        prompts.append(_read_prompt(path, places, name, given))
    return tuple(prompts)


def _read_prompt(path: Path, places: str, name: str, given: Any) -> Prompt:
    try:
        table = msgspec.convert(given, _Table)
    except msgspec.ValidationError as error:
        key, problem = _plainly(str(error))
        raise mistake(path, places, f"{name}.{key}" if key else name, problem) from None
    for key, problem in _problems(table):
        raise mistake(path, places, f"{name}.{key}", problem)
    return Prompt(name, table.text, next((Check(kind, said) for kind, said in _checks(table)), None))


def _checks(table: _Table) -> Iterator[tuple[Literal["exact", "pattern", "code"], str]]:
    if table.exact is not None:
        yield "exact", table.exact
    if table.pattern is not None:
        yield "pattern", table.pattern
    if table.code is not None:
        yield "code", table.code


def _name_problems(name: str) -> Iterator[str]:
    if not name.strip() or not name.isprintable():
        yield "a table's name is empty or cannot be printed; change it"
    if len(name) > _LONGEST_NAME:
        yield f"the name has {len(name):,} characters; {_LONGEST_NAME} is the most, shorten it"


def _problems(table: _Table) -> Iterator[tuple[str, str]]:
    """What is wrong, each with its key."""
    for key, said, most in (
        ("text", table.text, _LONGEST_TEXT),
        *((*one, _LONGEST_CHECK) for one in _checks(table)),
    ):
        if not said.strip():
            yield key, "there is nothing in it; write it, or leave the key out"
        if len(said) > most:
            yield key, f"it has {len(said):,} characters; {most:,} is the most, shorten it"
    kinds = [key for key, _ in _checks(table)]
    if len(kinds) > 1:
        yield kinds[1], f"the prompt has {kinds[0]} too; keep one of them"
    if table.pattern is not None:
        try:
            re.compile(table.pattern)
        except (re.error, OverflowError, RecursionError) as error:
            yield "pattern", f"{table.pattern!r} is no pattern ({error}); see Python's re"
    if table.code is not None:
        try:
            compile(table.code, "code", "exec", dont_inherit=True)
        except SyntaxError as error:
            yield "code", f"its line {error.lineno} is not Python ({error.msg}); correct it"
        except (ValueError, MemoryError, RecursionError) as error:
            yield "code", f"it is not Python ({error}); correct it"


def _without_strings(text: str) -> str:
    """The same lines without what stands in strings of several: a check's code may have a prompt's name."""
    return _LONG_STRING.sub(lambda found: "\n" * found[0].count("\n"), text)


def _plainly(message: str) -> tuple[str, str]:
    """Key and problem of a message of msgspec's."""
    if unknown := re.search(r"unknown field `([^`]+)`", message):
        return unknown[1], f"there is no such key; the keys are {', '.join(_Table.__struct_fields__)}"
    if missing := re.search(r"missing required field `([^`]+)`", message):
        return missing[1], "it is missing; write what the model is given"
    typed = re.fullmatch(r"Expected `[^`]+`, got `[^`]+` - at `\$\.([^`]+)`", message)
    if typed:
        return typed[1], "is no text; put it in quotes"
    return "", "is no table; write [its name] on a line, and below it text = and what else it has"
