"""What the checks of answers find, in answers as models write them."""

from __future__ import annotations

import pytest

from asrswitch.prompts.checks import Checked, code_in, judge
from asrswitch.prompts.sandbox import Limits
from asrswitch.prompts.sets import Check, Prompt, read_prompts

DOUBLE = Check("code", "assert double(2) == 4\nassert double('a') == 'aa'\n")
CATASTROPHIC = Check("pattern", r"^(a+)+$")


def _judge(check: Check, answer: str, limits: Limits | None = None) -> Checked:
    checked = judge(Prompt("p", "text", check), answer, limits)
    assert checked is not None
    return checked


def test_without_a_check_nothing_is_said() -> None:
    assert judge(Prompt("p", "text"), "anything") is None


@pytest.mark.parametrize("answer", ["42", " 42\n", "\t42 "])
def test_an_exact_answer(answer: str) -> None:
    assert _judge(Check("exact", "42\n"), answer) == Checked(True)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("42.", "the answer is “42.”, not “42”"),
        ("", "the answer is “”, not “42”"),
        ("4\n2", "the answer is “4\\n2”, not “42”"),
        ("x" * 99, f"the answer is “{'x' * 60}…”, not “42”"),
    ],
)
def test_another_answer_is_shown(answer: str, reason: str) -> None:
    assert _judge(Check("exact", "42"), answer) == Checked(False, reason)


def test_a_pattern_is_searched_for() -> None:
    check = Check("pattern", r"(?i)\bparis\b")
    assert _judge(check, "It is\n**Paris**, 'of course' \"\\\ud800") == Checked(True)
    reason = "the pattern is nowhere in the answer, “Parisian”"
    assert _judge(check, "Parisian") == Checked(False, reason)


def test_a_search_that_would_take_years_is_ended() -> None:
    checked = _judge(CATASTROPHIC, "a" * 60 + "b", Limits(seconds=0.8))
    assert checked == Checked(False, "the search took longer than 0.8 s")


def test_of_a_long_answer_the_beginning_is_searched() -> None:
    assert _judge(Check("pattern", "end"), "x" * 99_997 + "end").passed
    assert not _judge(Check("pattern", "end"), "x" * 99_998 + "end").passed


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("x = 1\n", "x = 1\n"),
        ("Here it is:\n```python\nx = 1\n\ny = 2\n```\nDone.", "x = 1\n\ny = 2"),
        ("```\r\nx = 1\r\n```", "x = 1"),
        ("1. So:\n   ```py\n   if x:\n       y = 1\n   ```", "if x:\n    y = 1"),
        ("First `pip`:\n```sh\npip install x\n```\nthen\n~~~ Python title=a\nx = 1\n~~~", "x = 1"),
        ("```python\nx = 1\ny = 2", "x = 1\ny = 2"),
        ("```python\nx = 1\n```\n```python\nx = 2\n```", "x = 1"),
        ("````python\nx = '\\\n```\n'\n````", "x = '\\\n```\n'"),
        ("```x = 0```\n```python\nx = 1\n```", "x = 1"),
        ("```c\nint x;\n```", "```c\nint x;\n```"),
    ],
)
def test_code_is_found_in_an_answer(answer: str, code: str) -> None:
    assert code_in(answer) == code


@pytest.mark.parametrize(
    "answer",
    [
        "def double(x):\n    print('')\n    return x + x",
        "So:\n```python\nif __name__ == '__main__':\n    raise SystemExit\ndouble = lambda x: x + x\n```",
    ],
)
def test_code_that_is_right(answer: str) -> None:
    assert _judge(DOUBLE, answer) == Checked(True)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("", "there is no code in the answer"),
        ("```python\n```", "there is no code in the answer"),
        ("I cannot do that.", "there is no code in the answer, “I cannot do that.”"),
        ("  Well,\nno", "there is no code in the answer, “Well,\\nno”"),
        ("```python\ndef double(x)\n```", "SyntaxError: expected ':' in line 1 of the code"),
        (
            "```\n\nimport nothing_there\n```",
            "ModuleNotFoundError: No module named 'nothing_there' in line 2 of",
        ),
        (
            "def duble(x): pass",
            "NameError: name 'double' is not defined in the check's line `assert double(2)",
        ),
        ("def double(x): return 4", "AssertionError in the check's line `assert double('a') == 'aa'`"),
        ("def double(x): return x / 0", "ZeroDivisionError: division by zero in the check's line `assert d"),
        ("import sys; sys.exit(0)", "SystemExit: 0 in line 1 of the code"),
        ("import os; os._exit(0)", "the code ended before its end was reached"),
        ("raise ValueError('a\\nb\\x1b' * 9999)", "ValueError: a\\nb\\x1ba\\nb"),
    ],
)
def test_code_that_is_wrong(answer: str, reason: str) -> None:
    checked = _judge(DOUBLE, answer)
    assert not checked.passed and checked.reason is not None
    assert checked.reason.startswith(reason) and checked.reason.isprintable() and len(checked.reason) < 5000


RIGHT = {
    "capital": "The capital of France is **Paris**.",
    "addition": "42",
    "echo": "banana",
    "german": "“Guten Morgen!”",
    "chinese": "中国的首都是北京。",
    "primes": "2, 3, 5, 7, and 11.",
    "even": "```python\ndef is_even(n):\n    return n % 2 == 0\n```",
    "vowels": "```python\ndef count_vowels(text):\n    return sum(c in 'aeiou' for c in text.lower())\n```",
}
WRONG = {
    "capital": "Parisian London",
    "addition": "43",
    "echo": "Banana!",
    "german": "Guten Tag",
    "chinese": "上海",
    "primes": "1, 2, 3, 5, 7",
    "even": "def is_even(n):\n    return n % 2",
    "vowels": "def count_vowels(text):\n    return sum(c in 'aeiou' for c in text)",
}


@pytest.mark.parametrize("prompt", read_prompts("questions"), ids=lambda prompt: prompt.name)
def test_our_questions_tell_right_from_wrong(prompt: Prompt) -> None:
    assert judge(prompt, RIGHT[prompt.name]) == Checked(True)
    wrong = judge(prompt, WRONG[prompt.name])
    assert wrong is not None and not wrong.passed
