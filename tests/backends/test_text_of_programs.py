"""What of a program's output is text, and what its words become."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from asrswitch.worker.backends.command import cut, fill_in

WORDS = st.text(alphabet="ab[]零 \n", max_size=12)
PIECES = st.lists(WORDS, max_size=8).map(lambda words: list(enumerate(words)))


@given(PIECES)
def test_removing_from_pieces_is_removing_from_the_whole(pieces: list[tuple[int, str]]) -> None:
    first, second = re.compile(r"\[[^\]]*\]"), re.compile("a+")
    found = cut(pieces, [first, second], None)
    whole = "".join(piece for _, piece in pieces)
    assert "".join(piece for _, piece in found) == second.sub("", first.sub("", whole))
    assert all(piece for _, piece in found)
    times = [at for at, _ in found]
    assert times == sorted(times)


@given(PIECES, st.integers(0, 20))
def test_a_character_keeps_the_time_of_its_piece(pieces: list[tuple[int, str]], place: int) -> None:
    """Each piece is told by letters of its own, so that what is left shows where it came from."""
    marked = [(at, chr(0x4E00 + at) * len(piece)) for at, piece in pieces]
    whole = "".join(piece for _, piece in marked)
    text = re.compile(rf"(?s).{{{min(place, len(whole))}}}(.*)")
    for at, piece in cut(marked, [], text):
        assert set(piece) == {chr(0x4E00 + at)}
    assert "".join(piece for _, piece in cut(marked, [], text)) == whole[place:]


def test_pieces_are_as_they_came_where_nothing_is_asked_for() -> None:
    pieces = [(1, "a"), (2, ""), (3, "b")]
    assert cut(pieces, [], None) is pieces


def test_a_group_is_left_out_whole_where_one_of_its_values_is_missing() -> None:
    words: list[str | list[str]] = ["p", ["-l", "{language}", "{model}"], ["-x"], "{model}"]
    values: dict[str, str | None] = {"language": None, "model": "m"}
    assert fill_in(words, values) == ["p", "-x", "m"]
    assert fill_in(words, {**values, "language": "zh"}) == ["p", "-l", "zh", "m", "-x", "m"]


def test_what_stands_for_a_placeholder_is_not_filled_in_again() -> None:
    assert fill_in(["{model}", "{a}b{"], {"model": "{audio}", "audio": "x", "a": None}) == ["{audio}", "b{"]
