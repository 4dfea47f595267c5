"""From what the engine writes to the text that people read."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.figures import Output, split_output
from asrswitch.transcription.transcript import (
    TranscriptStream,
    join,
    merge_languages,
    repair_repetitions,
    separator,
)


@pytest.mark.parametrize(
    ("raw", "repaired"),
    [
        ("", ""),
        ("plain text", "plain text"),
        ("a" * 20 + "b", "a" * 20 + "b"),
        ("a" * 21 + "b", "ab"),
        ("好" * 300 + "的", "好的"),
        ("ha" * 19 + " end of the text", "ha" * 19 + " end of the text"),
        ("ha" * 20 + " end of the text", "ha end of the text"),
        ("so " * 25 + "yes", "so yes"),
        ("one two three four, " * 20 + "five", "one two three four, five"),
        ("one two three, four, " * 40, "one two three, four, " * 40),  # 21 characters
        ("line\n" * 30, "line\n"),
        # Two of them, and one between texts.
        ("x" + "abcdefghij" * 21 + "tail" + "z" * 40 + "!", "xabcdefghijtailz!"),
        # 20 of one character are a pattern of one where 40 characters follow, as in the official pipeline.
        ("b" * 20 + "c", "b" * 20 + "c"),
        ("b" * 20 + "0123456789" * 2, "b0123456789" + "0123456789"),
        ("language English<asr_text>" + "no " * 25 + "yes", "language English<asr_text>no yes"),
    ],
)
def test_repetitions_become_one(raw: str, repaired: str) -> None:
    assert repair_repetitions(raw) == repaired


def slowly_repaired(raw: str) -> str:
    """The rules step by step."""
    text = ""
    for letter, run in itertools.groupby(raw):
        count = len(list(run))
        text += letter if count > 20 else letter * count
    result, at = "", 0
    while at < len(text):
        size, count = next(
            (
                (size, count)
                for size in range(1, 21)
                if (count := repetitions(text, at, size)) >= 20 and len(text) - at >= 40
            ),
            (1, 1),
        )
        result += text[at : at + size]
        at += size * count
    return result


def repetitions(text: str, at: int, size: int) -> int:
    pattern = text[at : at + size]
    count = 0
    while len(pattern) == size and text.startswith(pattern, at + count * size):
        count += 1
    return count


@st.composite
def looping_texts(draw: st.DrawFn) -> str:
    parts = draw(
        st.lists(
            st.tuples(st.text("ab 好", min_size=1, max_size=22), st.sampled_from([1, 2, 18, 19, 20, 21, 40])),
            max_size=4,
        )
    )
    return "".join(part * count for part, count in parts)


@given(looping_texts())
def test_the_repair_is_what_its_rules_say(raw: str) -> None:
    assert repair_repetitions(raw) == slowly_repaired(raw)


HEADERS = [
    "",
    "language English<asr_text>",
    "language None<asr_text>",
    " language Chinese\n<asr_text>",
    "<asr_text>",
]


@given(
    header=st.sampled_from(HEADERS),
    text=st.text(st.sampled_from("lang uge<_好\n é")),
    cuts=st.lists(st.integers(0, 60)),
)
def test_the_stream_is_the_text_however_it_comes(header: str, text: str, cuts: list[int]) -> None:
    raw = header + text
    bounds = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    transcript = TranscriptStream()
    pieces = [transcript.feed(raw[begin:end]) for begin, end in itertools.pairwise(bounds)]
    pieces.append(transcript.finish())
    expected = split_output(raw)
    assert "".join(pieces) == expected.text
    assert transcript.language == expected.language


def test_text_comes_with_the_piece_that_has_it() -> None:
    transcript = TranscriptStream()
    given_pieces = ["language", " English<asr", "_text> One", " ", "two", " "]
    assert [transcript.feed(piece) for piece in given_pieces] == ["", "", "One", "", " two", ""]
    assert transcript.finish() == ""
    without_header = TranscriptStream()
    assert [without_header.feed(piece) for piece in ("One", " two")] == ["One", " two"]


@pytest.mark.parametrize(
    ("before", "after", "between"),
    [
        (Output("English", "One."), Output("English", "Two."), " "),
        (Output("Chinese", "一"), Output("Chinese", "二"), ""),
        (Output("Chinese", "090"), Output("Chinese", "007"), ""),
        (Output("Chinese", "你好。"), Output("English", "Hello."), ""),
        (Output("Korean", "하나"), Output("Korean", "둘"), " "),
        (Output("Japanese", "です。"), Output("Japanese", "は"), ""),
        (Output(None, "one"), Output(None, "two"), " "),
        (Output(None, "一"), Output(None, "two"), ""),
        (Output("English", ""), Output("English", "two"), ""),
    ],
)
def test_a_space_stands_between_chunks_where_the_language_has_one(
    before: Output, after: Output, between: str
) -> None:
    assert separator(before, after) == between
    assert join([before, after]) == before.text + between + after.text


def test_chunks_without_text_leave_no_trace() -> None:
    outputs = [Output("English", "one"), Output(None, ""), Output("English", "two"), Output(None, "")]
    assert join(outputs) == "one two"
    assert join([]) == ""


def test_languages_in_their_order() -> None:
    assert merge_languages([None, "Chinese", "Chinese", None, "Chinese", "English"]) == "Chinese,English"
    assert merge_languages([None, ""]) is None
