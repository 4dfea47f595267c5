"""Tokens become pieces of text as they come; none of the libraries is needed for it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from asrswitch.worker.backends.transformers import Pieces

PROMPT = [1, 2, 3]


class Ids(list[int]):
    """As much of a tensor as is asked for."""

    def flatten(self) -> Ids:
        return self

    def tolist(self) -> list[int]:
        return list(self)


class Bytes:
    """A token for each byte, by the library that the real ones use."""

    def __init__(self) -> None:
        letters = sorted(ByteLevel.alphabet())
        self.of = Tokenizer(BPE({letter: index for index, letter in enumerate(letters)}, []))
        self.of.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
        self.of.decoder = ByteLevelDecoder()

    def decode(self, ids: list[int], **_: Any) -> str:
        return self.of.decode(ids)


TOKENIZER = Bytes()


def pieces_of(ids: list[int]) -> list[str]:
    pieces = Pieces(TOKENIZER)
    pieces.put(Ids(PROMPT))
    for token in ids:
        pieces.put(Ids([token]))
    pieces.end()
    assert (pieces.prompt_tokens, pieces.tokens) == (len(PROMPT), len(ids))
    times = [at for at, _ in pieces.pieces]
    assert times == sorted(times)
    return [text for _, text in pieces.pieces]


@given(st.lists(st.integers(0, 255), max_size=60))
def test_pieces_of_any_bytes_are_what_they_are_at_once(ids: list[int]) -> None:
    pieces = pieces_of(ids)
    assert "".join(pieces) == TOKENIZER.decode(ids)
    assert len(pieces) == len(ids)


@given(st.text(max_size=30))
def test_a_character_comes_with_its_last_byte(text: str) -> None:
    pieces = pieces_of(TOKENIZER.of.encode(text).ids)
    wanted = [part for letter in text for part in [""] * (len(letter.encode()) - 1) + [letter]]
    assert pieces == wanted or "\ufffd" in text


@pytest.mark.parametrize("text", ["", "a", "日本", "🙂"])
def test_some_of_them(text: str) -> None:
    assert "".join(pieces_of(TOKENIZER.of.encode(text).ids)) == text
