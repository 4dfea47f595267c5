"""Accuracy on freshly synthesised speech, of the torch model (quantised or not) and of the engine."""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import torch

from corpus import (
    HELD_OUT_ACCENT,
    HELD_OUT_VARIANTS,
    Utterance,
    quantise16,
    record,
    spellings,
    synthesise,
    transcript,
)
from export import load_checkpoint
from features import FloatArray
from model import PRESETS
from quantise import quantise_
from transcribe import Prompt, Transcriber, engine_transcriber, split_answer, torch_transcriber

DIGITS = "0123456789"
FREE = Prompt()


@dataclass(frozen=True)
class Speech:
    """How the clips of a set are spoken."""

    language: str
    voice: str
    lengths: tuple[int, int] = (3, 10)  # digits
    spelling: Callable[[str], str] | None = None  # default: any that espeak-ng reads digit by digit
    alphabet: str = DIGITS
    damaged: bool = False  # with silence, noise, echo, filter and level, as in training


@dataclass(frozen=True)
class EvaluationSet:
    """Clips with what ought to be answered."""

    clips: list[FloatArray]
    answers: list[tuple[str, str]]  # language ("" where it is forced) and text
    prompt: Prompt = FREE


def make_set(name: str, count: int, speech: Speech, prompt: Prompt = FREE) -> EvaluationSet:
    """`count` clips of random digit strings at 120 to 200 words per minute; follows from the name."""
    clips, answers = [], []
    for index in range(count):
        rng = random.Random(f"evaluation/{name}/{index}")
        digits = "".join(rng.choices(speech.alphabet, k=rng.randint(*speech.lengths)))
        spoken = (
            speech.spelling(digits) if speech.spelling else rng.choice(spellings(speech.language, digits))
        )
        utterance = Utterance(speech.language, digits, spoken, speech.voice, rng.randint(120, 200))
        clip = record(utterance, rng.getrandbits(32))[0] if speech.damaged else synthesise(utterance)
        clips.append(quantise16(clip))
        answers.append(("" if prompt.language else speech.language, transcript(speech.language, digits)))
    return EvaluationSet(clips, answers, prompt)


def silence_set(count: int) -> EvaluationSet:
    """Clips in which nobody speaks."""
    clips = [quantise16(record(Utterance("None", "", "", ""), 1000 + index)[0]) for index in range(count)]
    return EvaluationSet(clips, [("None", "")] * count)


def evaluation_sets(count: int) -> dict[str, EvaluationSet]:
    """The sets by name. None of their clips is in the corpus, whose random numbers have other seeds."""

    def characters(digits: str) -> str:
        return transcript("Chinese", digits)

    def words(digits: str) -> str:
        return transcript("English", digits)

    zh, en = "Chinese", "English"
    large = {
        "`cmn`, `0 9 0`": Speech(zh, "cmn", spelling=" ".join),
        "`cmn`, `零九零`": Speech(zh, "cmn", spelling=characters),
        "`cmn-latn-pinyin`, `零九零`": Speech(zh, "cmn-latn-pinyin", spelling=characters),
        "`en-us`, `zero nine zero`": Speech(en, "en-us", spelling=words),
        "`en-us`, `0 9 0`": Speech(en, "en-us", spelling=" ".join),
    }
    small = {
        "`cmn`, `0, 9, 0`": Speech(zh, "cmn", spelling=", ".join),
        "`en-us`, `0, 9, 0`": Speech(en, "en-us", spelling=", ".join),
        "`cmn`, only 0 and 3": Speech(zh, "cmn", alphabet="03"),
        "`en-us`, only 0 and 3": Speech(en, "en-us", alphabet="03"),
        "`cmn`, 11 to 24 digits": Speech(zh, "cmn", (11, 24)),
        "`en-us`, 11 to 24 digits": Speech(en, "en-us", (11, 24)),
        "`cmn+f1`, damaged": Speech(zh, "cmn+f1", damaged=True),
        "`en-us+f1`, damaged": Speech(en, "en-us+f1", damaged=True),
        f"held-out accent `{HELD_OUT_ACCENT}`": Speech(en, HELD_OUT_ACCENT),
    }
    for variant in HELD_OUT_VARIANTS:
        small[f"held-out voice `cmn+{variant}`"] = Speech(zh, f"cmn+{variant}")
        small[f"held-out voice `en-us+{variant}`"] = Speech(en, f"en-us+{variant}")
    few = max(1, count // 4)
    sets = {name: make_set(name, count, speech) for name, speech in large.items()}
    sets |= {name: make_set(name, few, speech) for name, speech in small.items()}
    sets["`cmn`, language forced"] = make_set("forced-zh", few, Speech(zh, "cmn"), Prompt(zh))
    sets["`en-us`, language forced"] = make_set("forced-en", few, Speech(en, "en-us"), Prompt(en))
    sets["`cmn`, with context"] = make_set("context", few, Speech(zh, "cmn"), Prompt(context="电话号码 0900"))
    sets["nobody speaks"] = silence_set(few)
    return sets


def character_error_rate(expected: Sequence[str], heard: Sequence[str]) -> float:
    """Errors over all characters of the references; where there are none, the share of answers with text."""
    if not any(expected):
        return sum(map(bool, heard)) / len(heard)
    return float(jiwer.cer(list(expected), list(heard)))


def evaluate(transcribers: dict[str, Transcriber], count: int, show_errors: bool) -> None:
    """Print a Markdown table: a row a set, wholly right answers and character error rate by transcriber."""
    print("| set | clips | " + " | ".join(f"{name} right | CER" for name in transcribers) + " |")
    print("| --- | ---: |" + " ---: | ---: |" * len(transcribers))
    for name, wanted in evaluation_sets(count).items():
        cells = []
        for run in transcribers.values():
            heard = [split_answer(answer) for answer in run(wanted.clips, wanted.prompt)]
            right = sum(one == other for one, other in zip(heard, wanted.answers, strict=True))
            rate = character_error_rate([text for _, text in wanted.answers], [text for _, text in heard])
            cells += [str(right), f"{rate:.2%}"]
            if show_errors:
                for one, other in zip(heard, wanted.answers, strict=True):
                    if one != other:
                        print(f"    {other} heard as {one}")
        print(f"| {name} | {len(wanted.clips)} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Accuracy of one model on fresh clips."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--checkpoint", type=Path, help="evaluate the torch model")
    parser.add_argument("--kinds", nargs="+", default=["f32", "q8_0", "q4_0"], help="its weights")
    parser.add_argument("--bin", type=Path, action="append", default=[], help="evaluate the engine")
    parser.add_argument("--library", help="libchatllm.so, if not the installed one")
    parser.add_argument("--count", type=int, default=200, help="clips in a large set; others have a quarter")
    parser.add_argument("--errors", action="store_true", help="print each wrong answer")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transcribers: dict[str, Transcriber] = {}
    for kind in arguments.kinds if arguments.checkpoint else []:
        model = load_checkpoint(arguments.preset, arguments.checkpoint)
        if kind != "f32":
            quantise_(model, kind)
        transcribers[f"torch {kind}"] = torch_transcriber(model)
    for path in arguments.bin:
        transcribers[f"engine {path.stem}"] = engine_transcriber(path, arguments.library)
    evaluate(transcribers, arguments.count, arguments.errors)


if __name__ == "__main__":
    main()
