"""Whether an answer is right, by the check that its prompt has.

Answers, and the code in them, are not trusted. Patterns are searched for in the sandbox too: some take
years on some texts, and Python's ``re`` cannot be interrupted.
"""

from __future__ import annotations

import re
import textwrap

import msgspec

from asrswitch.errors import printable
from asrswitch.prompts.sandbox import Limits, Outcome, Raised, run_confined
from asrswitch.prompts.sets import Check, Prompt

_LOOKED_AT = 100_000  # characters of an answer
_SHOWN = 60  # characters of it in a reason
_FENCE = re.compile(r"\s*(`{3,}(?=[^`]*$)|~{3,})\s*(\w*)")  # with the first word behind it
_PYTHON = ("", "python", "py", "python3")  # what that word may be
_NO_PYTHON = ("SyntaxError", "IndentationError", "TabError")


class Checked(msgspec.Struct, frozen=True):
    """What a check says."""

    passed: bool
    reason: str | None = None  # why it did not, in a line


def needs_sandbox(prompt: Prompt) -> bool:
    """Whether checking an answer runs code, or searches for a pattern."""
    return prompt.check is not None and prompt.check.kind != "exact"


def judge(prompt: Prompt, answer: str, limits: Limits | None = None) -> Checked | None:
    """Check an answer; None where its prompt has no check.

    Args:
        prompt: what was asked.
        answer: what the model gave; its first 100,000 characters are looked at.
        limits: of the sandbox that patterns and code need.

    Raises:
        SandboxError: this machine has none, so that neither can be checked.
    """
    check = prompt.check
    if check is None:
        return None
    looked_at = answer[:_LOOKED_AT]
    if check.kind == "exact":
        reason = _compare(check, looked_at)
    elif check.kind == "pattern":
        reason = _search(check, looked_at, limits)
    else:
        reason = _run(check, looked_at, limits)
    return Checked(reason is None, reason)


def code_in(answer: str) -> str:
    """The first fenced block that is Python or does not say what it is; all of an answer without such."""
    fence, is_python = "", False
    block: list[str] = []
    for line in answer.replace("\r\n", "\n").split("\n"):
        if not fence:
            if opening := _FENCE.match(line):
                fence, block, is_python = opening[1], [], opening[2].lower() in _PYTHON
        elif line.strip().startswith(fence) and not line.strip(f"{fence[0]} \t"):
            if is_python:
                break
            fence = ""
        else:
            block.append(line)
    # An answer that was cut off may lack the end of its block.
    return textwrap.dedent("\n".join(block)) if fence and is_python else answer


def _compare(check: Check, answer: str) -> str | None:
    if answer.strip() == check.expected.strip():
        return None
    return f"the answer is {_shown(answer)}, not {_shown(check.expected)}"


def _search(check: Check, answer: str, limits: Limits | None) -> str | None:
    outcome = run_confined({"search": f"import re\nassert re.search({check.expected!r}, {answer!r})"}, limits)
    if outcome.raised is not None and outcome.raised.kind == "AssertionError":
        return f"the pattern is nowhere in the answer, {_shown(answer)}"
    return _why(outcome, "search", "")


def _run(check: Check, answer: str, limits: Limits | None) -> str | None:
    code = code_in(answer)
    if not code.strip():
        return "there is no code in the answer"
    outcome = run_confined({"code": code, "check": check.expected}, limits)
    if outcome.raised is not None and outcome.raised.kind in _NO_PYTHON and code is answer:
        return f"there is no code in the answer, {_shown(answer)}"
    return _why(outcome, "code", check.expected)


def _why(outcome: Outcome, what: str, check: str) -> str | None:
    """Why it did not pass; ``check`` has the lines of the piece of that name."""
    if outcome.ended is not None:
        return f"the {what} {outcome.ended}"
    return None if outcome.raised is None else _told(outcome.raised, check.split("\n"))


def _told(raised: Raised, check: list[str]) -> str:
    said = f"{raised.kind}: {raised.text}" if raised.text else raised.kind
    if raised.line is None:
        return said
    if raised.piece == "check" and raised.line <= len(check):
        return printable(f"{said} in the check's line `{check[raised.line - 1].strip()}`")
    return f"{said} in line {raised.line} of the {raised.piece}"


def _shown(text: str) -> str:
    """The beginning of a text, in quotes and in one line."""
    text = text.strip()
    cut = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return f"“{printable(cut)}”"
