"""From what the engine writes to the text that people read: pure functions, and one small state machine.

The rules are those of the official pipeline (qwen-asr 0.0.6), but for the space between chunks: there it is
never one, for it cuts every 20 minutes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from asrswitch.figures import HEADER_END, Output, split_output

_HEADER_BEGINS = ("language ", HEADER_END)

# More than 20 of one character, then 20 or more of 1 to 20 characters, become one. The official pipeline
# looks for the latter only where 40 characters follow, which saves 20 of one character at the very end.
_RUN = re.compile(r"(.)\1{20,}", re.DOTALL)
_PATTERN = re.compile(r"(.{1,20}?)\1{19,}", re.DOTALL)
_LEAST_AFTER_PATTERN = 40

_UNSPACED_LANGUAGES = {"Chinese", "Cantonese", "Japanese", "Thai"}
# Han, kana, full-width forms, Thai.
_UNSPACED = re.compile(r"[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\u0e00-\u0e7f]")


def repair_repetitions(raw: str) -> str:
    """Collapse what a model in a loop repeats."""
    text = _RUN.sub(r"\1", raw)
    last = len(text) - _LEAST_AFTER_PATTERN
    return _PATTERN.sub(lambda match: match[1] if match.start() <= last else match[0], text)


def separator(before: Output, after: Output) -> str:
    """What stands between the texts of two chunks: a space, or nothing where the language has none.

    The language decides, of either; and where one is not known, the characters beside the seam.
    """
    if not before.text or not after.text:
        return ""
    for language, letter in ((before.language, before.text[-1]), (after.language, after.text[0])):
        if language in _UNSPACED_LANGUAGES or (language is None and _UNSPACED.match(letter)):
            return ""
    return " "


def join(outputs: Iterable[Output]) -> str:
    """The text of all chunks; that of the first few is its beginning."""
    text = ""
    last = Output(None, "")
    for output in outputs:
        if output.text:
            text += separator(last, output) + output.text
            last = output
    return text


def merge_languages(languages: Iterable[str | None]) -> str | None:
    """The languages in their order, neighbours that are equal once: ``Chinese,English``; None without any."""
    merged: list[str] = []
    for language in languages:
        if language and merged[-1:] != [language]:
            merged.append(language)
    return ",".join(merged) or None


class TranscriptStream:
    """Takes the engine's text in any pieces, and gives the transcript's as soon as it is certain.

    The header is left out, and so is white space around the text: what ``feed`` and ``finish`` return is, put
    together, the text of ``split_output``, unless a text that does not begin with a header has one later.
    """

    def __init__(self) -> None:
        self.language: str | None = None
        self._held = ""
        self._in_text = False  # past the header, or there is none
        self._begun = False

    def feed(self, piece: str) -> str:
        """The text that is certain with this piece, often none."""
        self._held += piece
        if not self._in_text:
            if HEADER_END in self._held:
                self.language = split_output(self._held).language
                self._held = self._held.partition(HEADER_END)[2]
            elif _may_be_header(self._held.lstrip()):
                return ""
            self._in_text = True
        if not self._begun:
            self._held = self._held.lstrip()
        text = self._held.rstrip()
        self._begun = self._begun or bool(text)
        self._held = self._held[len(text) :]
        return text

    def finish(self) -> str:
        """What was held back in case that it was a header."""
        return "" if self._in_text else self._held.strip()


def _may_be_header(text: str) -> bool:
    return any(begin.startswith(text[: len(begin)]) for begin in _HEADER_BEGINS)
