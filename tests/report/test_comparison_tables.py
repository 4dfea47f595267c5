from __future__ import annotations

import io
import re

from rich.console import Console

from asrswitch.allocators import compare_allocators
from asrswitch.plan import Strategy
from asrswitch.records import Failure, Record
from asrswitch.report.console import render_allocators, render_strategies, show
from asrswitch.schedule import Release
from asrswitch.strategies import Comparison, compare_strategies
from asrswitch.summary import Summary, summarise
from helpers.records import MIB, cycle, run_of


def shown(parts: list[object], width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    show(console, parts)  # type: ignore[arg-type]
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def row(lines: list[str], name: str) -> list[str]:
    (found,) = (line for line in lines if line.startswith(f"│ {name} "))
    return [cell.strip() for cell in found.strip("│").split("│")][1:]


def records_of(strategy: Strategy, iterations: int = 4) -> list[Record]:
    records: list[Record] = [run_of(iterations, strategy=strategy)]
    for index in range(2 * iterations):
        stays = strategy is Strategy.RESIDENT and index < 2 * iterations - 2
        how = Release.RESTART if stays else Release.DESTROY
        load = strategy is not Strategy.RESIDENT or index < 2
        records += cycle(index, "ab"[index % 2], how=how, load=load)
    return records


def comparison(limit: int | None = None, rate: float | None = None) -> Comparison:
    strategies = (Strategy.RELOAD, Strategy.RESIDENT)
    runs = [(run_of(4, strategy=one).plan, summarise(records_of(one))) for one in strategies]
    lost = Failure(cycle=0, iteration=1, model="a", worker=1, phase="load", kind="died", message="gone")
    isolate = run_of(4, strategy=Strategy.ISOLATE)
    return compare_strategies([*runs, (isolate.plan, summarise([isolate, lost]))], limit, rate)


def test_strategies_stand_side_by_side() -> None:
    lines = shown(render_strategies(comparison(100 * MIB, 1e5)))
    assert lines[0] == "strategies: means of the models' medians; a turn is load, TTFT and release"
    assert re.search("reload ┃ +resident ┃ +isolate", lines[2])
    assert row(lines, "a turn, ms") == ["122.0", "18.5", "–"]
    assert row(lines, "load and TTFT, ms") == ["108.5", "5.0", "–"]
    assert row(lines, "load and release, ms") == ["117.0", "13.5", "–"]
    assert row(lines, "peak, MiB") == ["40.0", "40.0", "–"]
    assert row(lines, "retained, MiB") == ["1.00", "1.00", "–"]
    assert row(lines, "memory") == ["inconclusive"] * 3
    assert row(lines, "failures") == ["–", "–", "1"]
    assert not any("start of a process" in line for line in lines)  # no log says it


def test_the_recommendation_is_one_line_however_narrow_the_terminal() -> None:
    lines = shown(render_strategies(comparison(100 * MIB, 1e5)), width=60)
    end = next(index for index, line in enumerate(lines) if line.startswith("└"))
    assert lines[end + 1 :] == [
        "resident is the best at 100,000 switches an hour within 100.0 MiB: its turns are the quickest "
        "(18.5 ms), and no other's peak is noticeably lower (40.0 MiB)",
        "whether resident leaks memory is not decided: run more iterations",
        "isolate is out: not every model's turn was measured",
    ]


def test_that_nothing_fits_is_told_too() -> None:
    lines = shown(render_strategies(comparison(MIB, 10.0)))
    assert "no strategy fits 1.0 MiB: reload takes the least, 40.0 MiB at its peak" in lines
    assert shown(render_strategies(compare_strategies([], None, None)))[-1].startswith("no strategy can be")


def test_allocators_stand_side_by_side() -> None:
    summary: Summary = summarise(records_of(Strategy.RELOAD, iterations=12))
    lines = shown(render_allocators(compare_allocators([("glibc", summary), ("jemalloc", summary)])))
    assert re.search("glibc ┃ +jemalloc", lines[2])
    assert row(lines, "retained, MiB") == ["1.00", "1.00"]
    assert row(lines, "of it anonymous, MiB") == ["1.00", "1.00"]
    assert row(lines, "malloc keeps back, MiB") == ["1.00", "–"]
    assert row(lines, "heap in use, an iteration") == ["+0 B", "–"]
    assert row(lines, "load, ms") == ["111.5", "111.5"]
    assert row(lines, "memory") == ["flat", "flat"]
    assert not any("trim" in line for line in lines)  # there was none
    assert lines[-1] == (
        "of 1.0 MiB of anonymous memory that stay after an unload under glibc, none are the allocator's: "
        "at least 1.0 MiB stay in any case"
    )
