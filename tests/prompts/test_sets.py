"""Sets of prompts: what files may say, and the mistakes in them, each told in one line."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asrswitch.errors import UsageError
from asrswitch.prompts.sets import PRESETS, Check, Prompt, read_prompts

GOOD = "[a]\ntext = 'x'\n"


def _read(text: str) -> tuple[Prompt, ...]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "p.toml")
        path.write_text(text, encoding="utf-8", newline="")
        return read_prompts(str(path))


def test_a_file_is_read_in_its_order() -> None:
    text = """
        [z]
        text = "Say hello."
        exact = "hello"
        [a]
        text = "你好"
        pattern = '(?i)hi'
        ["with blanks"]
        text = "Write f."
        code = '''
assert f(1)
'''
        [free]
        text = "Go on."
    """
    assert _read(text) == (
        Prompt("z", "Say hello.", Check("exact", "hello")),
        Prompt("a", "你好", Check("pattern", "(?i)hi")),
        Prompt("with blanks", "Write f.", Check("code", "assert f(1)\n")),
        Prompt("free", "Go on."),
    )


def test_questions_have_all_three_kinds_of_check() -> None:
    prompts = read_prompts("questions")
    assert 6 <= len(prompts) <= 8
    assert {prompt.check.kind for prompt in prompts if prompt.check} == {"exact", "pattern", "code"}
    assert all(prompt.check for prompt in prompts)


def test_sentences_have_no_checks_and_vary_in_length_and_language() -> None:
    prompts = read_prompts("sentences")
    lengths = [len(prompt.text) for prompt in prompts]
    assert len(prompts) >= 8 and min(lengths) < 10 and max(lengths) > 300
    assert not any(prompt.check for prompt in prompts)
    assert any(not prompt.text.isascii() for prompt in prompts)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "p.toml: has no prompts; write a table for each, see docs/prompts.md"),
        ("[a\n", "p.toml: "),
        ("\nx = 3\n", "p.toml:2: x: is no table; write [its name] on a line"),
        ("[[a]]\ntext = 'x'\n", "a: is no table; write [its name]"),
        ("\n[a]\n", "p.toml:2: a.text: it is missing; write what the model is given"),
        ("[a]\n\ntext = 3\n", "p.toml:3: a.text: is no text; put it in quotes"),
        (GOOD + "exact = 42\n", "p.toml:3: a.exact: is no text; put it in quotes"),
        (
            GOOD + "exakt = 'x'\n",
            "p.toml:3: a.exakt: there is no such key; the keys are text, exact, pattern,",
        ),
        ("[a.b]\ntext = 'x'\n", "p.toml:1: a.b: there is no such key"),
        ("[a]\ntext = ' '\n", "p.toml:2: a.text: there is nothing in it; write it"),
        (GOOD + "exact = ''\n", "p.toml:3: a.exact: there is nothing in it; write it, or leave the key out"),
        (
            GOOD + "exact = 'x'\ncode = 'pass'\n",
            "p.toml:4: a.code: the prompt has exact too; keep one of them",
        ),
        (GOOD + "pattern = '('\n", "p.toml:3: a.pattern: '(' is no pattern (missing )"),
        (GOOD + "pattern = 'a{99999999999}'\n", "p.toml:3: a.pattern: 'a{99999999999}' is no pattern ("),
        (
            GOOD + "code = '''\nx = 1\nif:\n'''\n",
            "p.toml:3: a.code: its line 2 is not Python (invalid syntax)",
        ),
        (GOOD + "code = \"x = '\\u0000'\"\n", "p.toml:3: a.code: "),
        (
            f"[a]\ntext = '{'x' * 100_001}'\n",
            "p.toml:2: a.text: it has 100,001 characters; 100,000 is the most",
        ),
        (GOOD + f"exact = '{'x' * 10_001}'\n", "a.exact: it has 10,001 characters; 10,000 is the most"),
        ('[""]\ntext = "x"\n', "p.toml: a table's name is empty or cannot be printed; change it"),
        ('["a\\u001b"]\ntext = "x"\n', "a\\x1b: a table's name is empty or cannot be"),
        (f"[{'n' * 61}]\ntext = 'x'\n", "the name has 61 characters; 60 is the most"),
        ("".join(f"[p{n}]\ntext='x'\n" for n in range(1001)), "p.toml: has 1,001 prompts; 1,000 is the most"),
        (GOOD + GOOD, "p.toml: "),
    ],
)
def test_a_mistake_is_told_with_its_place(text: str, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        _read(text)
    assert says in str(raised.value)
    assert str(raised.value).isprintable()


def test_the_line_is_that_of_the_prompt_that_is_meant() -> None:
    text = (
        "[a]\ntext = 'x'\ncode = '''\nb = 1\ntext = 2\n'''\n[b]\ntext = 'y'\n\npattern = '['\n[c]\ntext = 3\n"
    )
    with pytest.raises(UsageError, match=re.escape("p.toml:10: b.pattern:")):
        _read(text)


def test_sets_and_files_that_are_not_there(tmp_path: Path) -> None:
    assert PRESETS.names() == ["questions", "sentences"]
    with pytest.raises(UsageError, match=r"--prompts riddles: no set .* use questions, sentences, or name a"):
        read_prompts("riddles")
    with pytest.raises(UsageError, match=r"none\.toml: cannot be read \(No such file"):
        read_prompts(str(tmp_path / "none.toml"))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(str.strip)
_names = _texts.filter(str.isprintable)
_checks = st.one_of(
    st.none(),
    st.builds(Check, st.just("exact"), _texts),
    st.builds(Check, st.just("pattern"), _texts.map(re.escape)),
    st.builds(Check, st.just("code"), _texts.map(lambda text: f"assert {text!r}")),
)


@settings(max_examples=50)
@given(st.dictionaries(_names, st.tuples(_texts, _checks), min_size=1, max_size=5))
def test_what_is_written_is_read(prompts: dict[str, tuple[str, Check | None]]) -> None:
    lines = []
    for name, (text, check) in prompts.items():
        lines += [f"[{_quoted(name)}]", f"text = {_quoted(text)}"]
        lines += [f"{check.kind} = {_quoted(check.expected)}"] if check else []
    assert _read("\n".join(lines)) == tuple(Prompt(name, *rest) for name, rest in prompts.items())


_keys = st.sampled_from(["text", "exact", "pattern", "code", "other"])
_values = st.one_of(_texts.map(_quoted), st.sampled_from(["3", "[]", "{}", "true", "'('", "1979-05-27", ""]))
_lines = st.one_of(
    st.builds(lambda key, value: f"{key} = {value}", _keys, _values),
    st.sampled_from(["[a]", "[b.text]", "[[c]]", '["\\u0000"]', "text", "'''", '"""', "["]),
    _texts,
)


@given(st.lists(_lines, max_size=8).map("\n".join))
@example("\ufeff[a]\ntext = 'x'")
def test_any_file_gives_prompts_or_one_line(text: str) -> None:
    try:
        prompts = _read(text)
    except UsageError as error:
        assert "p.toml" in str(error) and "\n" not in str(error)
    else:
        assert prompts and all(prompt.text.strip() for prompt in prompts)
