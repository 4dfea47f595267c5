from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrswitch.figures import figure_out, split_output

MS = 1_000_000


def test_the_header_does_not_count_however_it_is_cut() -> None:
    pieces = [
        (10 * MS, "language Ch"),
        (20 * MS, "inese<asr_"),
        (30 * MS, "text>"),
        (40 * MS, "零九"),
        (60 * MS, "零零"),
    ]
    figures = figure_out(pieces, 0, 70 * MS, 2.0, [])
    assert (figures.first_callback_ms, figures.ttft_ms) == (10, 40)
    assert (figures.callbacks, figures.text_callbacks, figures.characters) == (5, 2, 4)
    assert figures.chars_per_s == pytest.approx(2 / 0.020)
    assert figures.rtf == pytest.approx(0.035)
    assert (figures.tokens, figures.tokens_source) == (5, "callbacks")
    assert figures.tokens_per_s == pytest.approx(4 / 0.050)


def test_a_callback_that_carries_the_end_of_the_header_and_text_counts() -> None:
    figures = figure_out([(5 * MS, "language None<asr_text>ab"), (9 * MS, "c")], 0, 10 * MS, 1.0, [])
    assert (figures.ttft_ms, figures.characters) == (5, 3)
    assert figures.chars_per_s == pytest.approx(250)


def test_without_a_header_all_is_text() -> None:
    figures = figure_out([(5 * MS, "language"), (9 * MS, " lesson")], 0, 10 * MS, 1.0, [])
    assert (figures.ttft_ms, figures.characters) == (5, 15)


def test_white_space_around_the_transcript_is_not_a_character() -> None:
    figures = figure_out([(5 * MS, "<asr_text> "), (7 * MS, " a"), (9 * MS, "\n")], 0, 10 * MS, 1.0, [])
    assert (figures.ttft_ms, figures.characters, figures.text_callbacks, figures.chars_per_s) == (
        7,
        1,
        1,
        None,
    )


def test_what_is_read_of_a_program_is_not_counted_as_tokens() -> None:
    pieces = [(10 * MS, "one two "), (30 * MS, "three")]  # three tokens in two reads
    told = figure_out(pieces, 0, 40 * MS, 1.0, [], {"tokens": 3.0, "prompt_tokens": 9.0})
    assert (told.tokens, told.tokens_source, told.prompt_tokens) == (3, "engine", 9)
    assert told.tokens_per_s == pytest.approx(2 / 0.020)
    untold = figure_out(pieces, 0, 40 * MS, 1.0, [], {})
    assert (untold.tokens, untold.tokens_source, untold.tokens_per_s) == (None, None, None)
    assert untold.chars_per_s == told.chars_per_s == pytest.approx(5 / 0.020)


def test_without_streaming_pieces_have_no_speed_in_tokens() -> None:
    pieces = [(10 * MS, "one two"), (30 * MS, "three")]
    for reported in (None, {"tokens": 3.0}):
        figures = figure_out(pieces, 0, 40 * MS, 1.0, [], reported, streams=False)
        assert figures.tokens_per_s is None
        assert figures.tokens == (3 if reported else None)


def test_silence_has_no_times() -> None:
    figures = figure_out([], 0, 10 * MS, 1.0, [])
    assert figures.ttft_ms is figures.first_callback_ms is figures.chars_per_s is figures.tokens is None
    assert figures.inference_ms == 10


@pytest.mark.parametrize(
    ("lines", "generated", "prompt"),
    [
        (["tokens: generated 12, prompt 160"], 12, 160),
        (
            [
                "timings: prompt eval time =      2333.46 ms /   158 tokens (   55.56 ms per token)",
                "timings:        eval time =       333.46 ms /    21 tokens (   15.56 ms per token)",
                "timings:       total time =      2666.92 ms /   179 tokens",
            ],
            21,
            158,
        ),
        (["nothing of use"], None, None),
        ([f"tokens: generated {'9' * 5000}, prompt 160"], None, 160),
    ],
)
def test_token_counts_are_read_from_either_engines_statistics(
    lines: list[str], generated: int | None, prompt: int | None
) -> None:
    figures = figure_out([(5 * MS, "a")], 0, 10 * MS, 1.0, lines)
    assert figures.prompt_tokens == prompt
    assert (figures.tokens, figures.tokens_source) == (
        (generated, "engine") if generated else (1, "callbacks")
    )


def test_the_token_rate_counts_what_came_in_its_span() -> None:
    pieces = [(10 * MS, "a"), (20 * MS, "b"), (30 * MS, "c")]
    figures = figure_out(pieces, 0, 40 * MS, 1.0, ["tokens: generated 9, prompt 5"])
    assert (figures.tokens, figures.tokens_per_s) == (9, pytest.approx(2 / 0.020))


def test_a_clip_of_no_length_has_no_real_time_factor() -> None:
    assert figure_out([(MS, "a")], 0, 2 * MS, 0.0, []).rtf is None


@given(st.text(max_size=40), st.lists(st.integers(1, 39), max_size=6), st.booleans())
def test_characters_and_order_hold_for_every_way_of_cutting(text: str, cuts: list[int], header: bool) -> None:
    raw = "language English<asr_text>" + text if header else text
    edges = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    pieces = [(MS * (k + 1), raw[a:b]) for k, (a, b) in enumerate(itertools.pairwise(edges))]
    figures = figure_out(pieces, 0, MS * 100, 1.0, [])
    assert figures.characters == len(split_output(raw).text)
    assert (figures.ttft_ms is None) == (figures.characters == 0)
    if figures.ttft_ms is not None and figures.first_callback_ms is not None:
        assert figures.first_callback_ms <= figures.ttft_ms <= figures.inference_ms


def test_the_output_is_taken_apart_at_the_first_mark() -> None:
    assert split_output("language English<asr_text> a<asr_text>b ") == split_output(
        "language English<asr_text>a<asr_text>b"
    )
    assert split_output("language English<asr_text>a").language == "English"
    assert split_output("language None<asr_text>").language is None
    assert split_output("just text") == split_output("  just text\n")
