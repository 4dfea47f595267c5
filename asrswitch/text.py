"""Texts made comparable, and the error rates between them.

Two transcripts that say the same are to compare equal however they are written: 零九零零, `0900`, `zero nine
zero zero`, full-width or half-width, Simplified or Traditional, with punctuation or without. ``normalise``
gives one spelling for all of them. It is a key for comparison, not a text to read; the raw text is kept
beside it everywhere.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from opencc import OpenCC
    from wetext import Normalizer

_HAN_DIGITS = {han: str(value) for value, han in enumerate("零一二三四五六七八九")} | {"〇": "0"}
_WORD_DIGITS = {
    word: str(value)
    for value, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    )
}
_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u3007"
_KANA = r"\u3040-\u30ff"
_ENGLISH = re.compile(r"[a-z]+(?: +[a-z]+)*")
_DIGIT_WORD = re.compile(rf"\b(?:{'|'.join(_WORD_DIGITS)})\b")
_HAS_HAN = re.compile(f"[{_HAN}]")
_APOSTROPHE = re.compile(r"(?<=[^\W\d])['\u2019](?=[^\W\d])")
_LETTER_HYPHEN = re.compile(r"(?<=[a-z])-(?=[a-z])")
# All punctuation but what carries meaning in a number: 1.5, 3:30, 2026/05/03, 20%, -5; and marks, which `\w`
# lacks.
_PUNCTUATION = re.compile(r"(?!(?<=\d)(?:[.:/](?=\d)|%))(?!(?<!\S)-(?=\d))(?:[^\w\s]|_)")
_VARIATION_SELECTOR = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_IDLE_SPACE = re.compile(rf"(?<=\d) (?=\d)|(?<=[{_HAN}{_KANA}]) | (?=[{_HAN}{_KANA}])")
_WORD = re.compile(rf"[{_HAN}{_KANA}]|-?\d[\d.:/%]*|[^\s\d.:/%{_HAN}{_KANA}]+")


class ErrorRates(msgspec.Struct, frozen=True):
    """Word and character error rate, 0 when equal and possibly above 1."""

    wer: float
    cer: float


def normalise(text: str) -> str:
    """One spelling for texts that say the same.

    Width, case (NFKC, casefold); numbers as digits (wetext's inverse text normalisation, Mandarin and
    English, and the one- and two-digit runs that it leaves as words); Traditional Chinese with Taiwan's words
    (OpenCC s2twp); no punctuation but in numbers and no space beside an ideograph; digits that only spaces or
    punctuation separate are one number, for that is how a telephone number is spoken, and wetext's
    `09000 73331` is its formatting. Vowel signs and accents that are characters of their own stay.

    Strings of digits are exact. Dates, times, money and units said in words may come out unlike the same in
    figures, and some runs of number words read as a time (`five ten` as 05:10).
    """
    text = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-")
    text = _LETTER_HYPHEN.sub(" ", _APOSTROPHE.sub("", text))
    text = _ENGLISH.sub(_english_numbers, text)
    if _HAS_HAN.search(text):
        # wetext knows the numerals in Simplified (万, 点), so it simplifies first; OpenCC brings the script
        # back.
        text = _wetext("zh").normalize(text)
        text = "".join(_HAN_DIGITS.get(character, character) for character in text)
        text = _opencc().convert(text)
    text = " ".join(_PUNCTUATION.sub(_without_punctuation, text).split())
    return _IDLE_SPACE.sub("", text)


def words(normalised: str) -> list[str]:
    """The words that WER counts: a number, a Han or kana character, or a run of other letters.

    Chinese has no spaces, so WER needs a choice of words: each ideograph counts as one and a string of digits
    as one, so that one wrong digit makes the whole number wrong, as it does to whoever dials it. CER tells
    how wrong.
    """
    return _WORD.findall(normalised)


def error_rates(reference: str, hypothesis: str) -> ErrorRates | None:
    """Rates between two normalised texts; None where the reference is empty and the other is not."""
    import jiwer

    reference_words, hypothesis_words = words(reference), words(hypothesis)
    if not reference_words:
        return None if hypothesis_words else ErrorRates(0.0, 0.0)
    return ErrorRates(
        wer=float(jiwer.wer(" ".join(reference_words), " ".join(hypothesis_words))),
        cer=float(jiwer.cer("".join(reference_words), "".join(hypothesis_words))),
    )


def _without_punctuation(match: re.Match[str]) -> str:
    character = match.group()
    if unicodedata.category(character).startswith("M"):
        return "" if _VARIATION_SELECTOR.match(character) else character
    # Format characters, such as joiners, stand inside words.
    return "" if unicodedata.category(character) == "Cf" else " "


def _english_numbers(run: re.Match[str]) -> str:
    digits = _wetext("en").normalize(run.group())
    return _DIGIT_WORD.sub(lambda word: _WORD_DIGITS[word.group()], digits)


@functools.cache
def _wetext(language: str) -> Normalizer:
    from wetext import Normalizer

    return Normalizer(lang=language, operator="itn", traditional_to_simple=language == "zh")


@functools.cache
def _opencc() -> OpenCC:
    from opencc import OpenCC

    return OpenCC("s2twp")
