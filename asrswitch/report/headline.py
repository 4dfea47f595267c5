"""What a run comes to, in a title and a few sentences: what a reader of the report sees first."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec

from asrswitch.records import Failure
from asrswitch.report.runs import Report
from asrswitch.report.units import counted, growth, size
from asrswitch.stats.verdict import SEVERITY, Word
from asrswitch.summary import SubjectVerdict, Summary

_TITLES = {
    Word.FLAT: "No leak: memory does not grow",
    Word.PLATEAU: "No leak: memory grew in warm-up, and not after it",
    Word.INCONCLUSIVE: "Not decided: whether memory leaks is not known yet",
    Word.LEAK: "Memory leaks",
}


class Headline(msgspec.Struct, frozen=True):
    """``mood`` decides the sign before the title; each sentence stands by itself."""

    mood: Literal["good", "open", "bad"]
    title: str
    sentences: list[str]


def headline(report: Report) -> Headline:
    """Of one run its verdict; of several what comparing them says."""
    if len(report.runs) == 1:
        return run_headline(report.runs[0].summary)
    parts = [run_headline(run.summary) for run in report.runs]
    moods = {part.mood for part in parts}
    mood: Literal["good", "open", "bad"] = "bad" if "bad" in moods else "open" if "open" in moods else "good"
    words = Counter(run.summary.word for run in report.runs)
    told = ", ".join(f"{count} {word.value}" for word, count in words.items())
    sentences = [f"Memory of {counted(len(report.runs), 'run')}: {told}."]
    if report.strategies:
        sentences.insert(0, _sentence(report.strategies.recommendation))
    if report.allocators:
        sentences[:0] = [_sentence(line) for line in report.allocators.conclusions]
    sentences[:0] = [_sentence(item.line) for item in report.caches]
    leaking = [run.name for run in report.runs if run.summary.word is Word.LEAK]
    invalid = [run.name for run in report.runs if run.summary.invalid]
    failed = [run.name for run in report.runs if run.summary.failures]
    if leaking:
        sentences.append(f"Memory leaks with {', '.join(leaking)}.")
    if failed:
        sentences.append(f"There were failures with {', '.join(failed)}.")
    if invalid:
        sentences.append(f"INVALID, and not to be trusted: {', '.join(invalid)}.")
    rules = report.strategies.rules if report.strategies else []
    if best := " or ".join(dict.fromkeys(rule.strategy.value for rule in rules)):
        title = f"Best of {len(report.runs)} strategies here: {best}"
    else:
        title = f"{counted(len(report.runs), 'run')} compared"
    return Headline(mood, title, sentences)


def run_headline(summary: Summary) -> Headline:
    """The verdict, what it rests on, and what went wrong."""
    word = summary.word
    worst = max(summary.verdicts, key=lambda item: SEVERITY.index(item.verdict.word), default=None)
    title = _TITLES[word]
    if word is Word.LEAK and worst:
        title = f"{title}: {_growth(worst)}"
    mood: Literal["good", "open", "bad"] = "good"
    if word is Word.LEAK or summary.failures or summary.invalid:
        mood = "bad"
    elif word is Word.INCONCLUSIVE or summary.finished != "complete":
        mood = "open"
    sentences = [_verdict_sentence(worst)] if worst else []
    if cost := _cost(summary):
        sentences.append(cost)
    if summary.failures:
        title = f"{counted(_cycles(summary.failures), 'cycle')} failed. {title}"
        sentences += _failure_sentences(summary.failures)
    if summary.invalid:
        title = f"INVALID: these figures are not to be trusted. {title}"
        sentences += [_sentence(reason) for reason in summary.invalid]
    done, planned = summary.iterations_done, summary.iterations_planned
    if summary.finished != "complete":
        sentences.append(f"The run was {summary.finished} after {done:,} of {planned:,} iterations.")
    elif done < planned and not summary.until_decided:
        sentences.append(f"{done:,} of {planned:,} iterations came to their end in all models.")
    return Headline(mood, title, sentences)


def _growth(item: SubjectVerdict) -> str:
    verdict = item.verdict
    slope = verdict.series[verdict.leading].verdict.slope if verdict.leading else None
    if verdict.leading is None or slope is None:
        return verdict.reason
    return f"{growth(slope.slope, verdict.leading in verdict.counts)} {verdict.leading} an iteration"


def _verdict_sentence(item: SubjectVerdict) -> str:
    """The evidence in a sentence."""
    verdict = item.verdict
    over = f"Over {counted(verdict.iterations, 'iteration')} of {item.subject}"
    name = verdict.leading or "resident memory"
    found = verdict.series[name].verdict if name in verdict.series else None
    if verdict.word is Word.INCONCLUSIVE or found is None or found.slope is None:
        return f"{over}: {verdict.reason}. Next: {verdict.next_step}."
    is_count = name in verdict.counts
    slope = found.slope
    interval = f"95 % interval {growth(slope.low, is_count)} to {growth(slope.high, is_count)}"
    if verdict.word is Word.LEAK:
        parts = [f"{over}, {name} grows by {growth(slope.slope, is_count)} an iteration ({interval})"]
        if verdict.holder:
            parts.append(f"held by {verdict.holder}")
        if item.growth_by_model:
            parts.append(f"in cycles of {', '.join(item.growth_by_model)}")
        if verdict.iterations_to_limit is not None:
            parts.append(f"memory runs out after {verdict.iterations_to_limit:,} more iterations")
        return f"{'; '.join(parts)}. Next: {verdict.next_step}."
    shown = ""
    if found.detectable is not None:
        shown = f"; growth of {growth(found.detectable, is_count).lstrip('+')} an iteration would have shown"
    if verdict.word is Word.PLATEAU:
        held = f", held by {verdict.holder}" if verdict.holder else ""
        level = growth(found.warmup_growth, is_count)
        return (
            f"{over}, {name} rose by {level} in the first {found.warmup_iterations:,}{held}, then by "
            f"{growth(slope.slope, is_count)} an iteration ({interval}){shown}."
        )
    grew = growth(slope.slope, is_count)
    moved = "stayed where it was" if grew.startswith("0") else f"moved by {grew} an iteration"
    return f"{over}, {name} {moved} ({interval}){shown}."


def _cost(summary: Summary) -> str | None:
    """What switching to each model takes, and the first text after it."""
    told = []
    for model in summary.models:
        switch, first = model.switch_ms or model.load_ms, model.ttft_ms or model.first_inference_ms
        named = "first text" if model.ttft_ms else "first embedding"
        if switch and first:
            what = "switch to" if model.switch_ms else "load of"
            told.append(f"{what} {model.label} {switch.median:,.1f} ms, {named} {first.median:,.1f} ms")
        elif first and summary.keeps:
            told.append(f"{named} of {model.label} {first.median:,.1f} ms")
        elif first and not summary.loads:
            told.append(f"first text of {model.label} {first.median:,.1f} ms from its process's start")
    if not told:
        return None
    peak = f" Memory peaked at {size(summary.resident.peak)}." if summary.resident else ""
    retained = [model.retained_bytes.median for model in summary.models if model.retained_bytes]
    left = ""
    if retained:
        left = (
            f" After an unload it is {growth(max(retained), False)} from where it was before the first load."
        )
    return f"Medians: {'; '.join(told)}.{peak}{left}"


def _cycles(failures: list[Failure]) -> int:
    return len({failure.cycle for failure in failures})


def _failure_sentences(failures: list[Failure]) -> list[str]:
    """The first failure, and how many more there were of each kind."""
    first = failures[0]
    signal = f" by {first.signal}" if first.signal else ""
    memory = ", for want of memory" if first.out_of_memory else ""
    what = {
        "died": f"the worker was ended{signal} in {first.phase}{memory}",
        "timeout": f"{first.phase} hung, and its worker was ended",
        "error": f"{first.phase} reported an error{memory}",
        "refused": f"{first.phase} was refused",
    }[first.kind]
    rest = f" {counted(len(failures) - 1, 'more failure')} followed." if len(failures) > 1 else ""
    return [f"First failure, in iteration {first.iteration:,} of {first.model}: {what}.{rest}"]


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
