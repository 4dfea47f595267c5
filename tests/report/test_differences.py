from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from report_examples import replace, run_records

from asrswitch.records import Transcription
from asrswitch.report.differences import LONGEST, MOST_TEXTS, Piece, differences, transcripts

TEXT = st.text(alphabet="ab 0123零九七-", max_size=40)


def test_digits_and_ideographs_differ_by_themselves_and_words_as_words() -> None:
    assert differences("0900073331", "0900073337") == [
        Piece("same", "090007333"), Piece("missing", "1"), Piece("extra", "7"),
    ]  # fmt: skip
    assert differences("零九七", "零七") == [Piece("same", "零"), Piece("missing", "九"), Piece("same", "七")]
    assert differences("the cat sat", "the car sat") == [
        Piece("same", "the "), Piece("missing", "cat"), Piece("extra", "car"), Piece("same", " sat"),
    ]  # fmt: skip
    assert differences("same", "same") == [Piece("same", "same")]
    assert differences("", "") == []


@given(TEXT, TEXT)
def test_the_pieces_are_both_texts(reference: str, text: str) -> None:
    pieces = differences(reference, text)
    assert "".join(piece.text for piece in pieces if piece.kind != "missing") == text
    same = "".join(piece.text for piece in pieces if piece.kind != "extra")
    assert "".join(same.split()) == "".join(reference.split())


def test_all_texts_of_a_model_are_told_the_usual_one_first() -> None:
    spoken = [record for record in run_records(12) if isinstance(record, Transcription)]
    other = [replace(spoken[0], text=f"other {number}", iteration=number) for number in range(8)]
    first, second = transcripts([*other, *spoken], 60_000)
    assert (first.model, second.model) == ("a", "b")
    assert first.heard[0].text == "abc"
    assert first.heard[0].count == 12
    assert first.heard[0].pieces == [Piece("same", "abc")]
    assert (len(first.heard), first.texts) == (MOST_TEXTS, 9)
    assert (second.texts, second.heard[0].cut) == (1, 0)


def test_a_long_text_is_cut_and_says_by_how_much() -> None:
    spoken = next(record for record in run_records(1) if isinstance(record, Transcription))
    long = "a" * (LONGEST + 7)
    (found,) = transcripts([replace(spoken, text=long, normalised=long, reference_normalised=None)], 60_000)
    assert found.heard[0].cut == 7
    assert len(found.heard[0].text) == LONGEST
    assert found.heard[0].pieces == []


def test_of_many_texts_less_is_shown_of_each() -> None:
    spoken = next(record for record in run_records(1) if isinstance(record, Transcription))
    long = "零九" * 1_000
    many = [
        replace(spoken, clip=f"/{clip}", text=f"{text}{long}", normalised=long, reference_normalised=long)
        for clip in range(20)
        for text in range(9)
    ]
    found = transcripts(many, 60_000)
    heard = [one for item in found for one in item.heard]
    shown = sum(len(one.text) + sum(len(piece.text) for piece in one.pieces) for one in heard)
    assert len(found) == 20
    assert 20_000 < shown < 60_000
