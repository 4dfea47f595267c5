"""What a report is of: the runs of a directory, their summaries, and what comparing them says."""

from __future__ import annotations

import warnings
from pathlib import Path

import msgspec

from asrswitch.allocators import AllocatorComparison, compare_allocators
from asrswitch.cache_states import CacheComparison, compare_caches
from asrswitch.plan import LOG_NAME, Need, Plan
from asrswitch.records import Record, Run, TornLineWarning, read_log
from asrswitch.resume import find_logs, in_turns, plan_of
from asrswitch.rules.recommend import recommend
from asrswitch.rules.result import RuleResult
from asrswitch.rules.strategy import judge_strategy
from asrswitch.strategies import Comparison, compare_strategies
from asrswitch.summary import Summary, summarise


class ReportedRun(msgspec.Struct, frozen=True):
    """One run, and what its log says."""

    name: str  # of its variant, or else of its directory
    log: Path
    records: list[Record]
    summary: Summary
    recommendations: list[RuleResult]

    @property
    def run(self) -> Run:
        first = self.records[0]
        assert isinstance(first, Run)
        return first

    @property
    def plan(self) -> Plan:
        return self.run.plan


class Report(msgspec.Struct, frozen=True):
    """The runs of a directory in the order of their turns, compared by strategy or by allocator."""

    path: Path  # as it was named
    runs: list[ReportedRun]
    strategies: Comparison | None
    allocators: AllocatorComparison | None
    caches: list[CacheComparison]  # cold against warm, a model each
    recommendations: list[RuleResult]  # of a strategy, where nothing else varies
    warnings: list[str]  # of the logs themselves

    @property
    def summaries(self) -> list[Summary]:
        return [run.summary for run in self.runs]


def read_report(path: Path, need: Need | None = None) -> Report:
    """Read a run's log or directory, or that of runs that took turns.

    Args:
        path: the log, its directory, or the directory above those of several runs.
        need: what a strategy is to be recommended for; what the runs were given where it is None.

    Raises:
        LogError: there is no log, or one that cannot be read.
        UsageError: there are several, of runs that did not take turns.
    """
    logs = [path] if path.is_file() else find_logs(path) or [path / LOG_NAME]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TornLineWarning)
        read = [(log, read_log(log)) for log in logs]
    place = {id(records): log for log, records in read}
    runs = [
        _reported(place[id(records)], records) for records in in_turns(path, [records for _, records in read])
    ]
    plans = [run.plan for run in runs]
    strategies, allocators = {plan.strategy for plan in plans}, {plan.allocator for plan in plans}
    by_strategy = len(runs) > 1 and len(strategies) == len(runs) and len(allocators) == 1
    by_allocator = len(runs) > 1 and len(allocators) == len(runs) and len(strategies) == 1
    need = need or Need(plans[0].memory_limit_bytes, plans[0].switches_per_hour)
    summarised = [(run.plan, run.summary) for run in runs]
    comparison = None
    if by_strategy:
        comparison = compare_strategies(summarised, need.memory_limit_bytes, need.switches_per_hour)
    return Report(
        path=path,
        runs=runs,
        strategies=comparison,
        allocators=compare_allocators([(run.plan.allocator, run.summary) for run in runs])
        if by_allocator
        else None,
        caches=compare_caches([(run.name, run.records) for run in runs]),
        recommendations=[judge_strategy(comparison, summarised)] if comparison or len(runs) == 1 else [],
        warnings=[str(warning.message) for warning in caught],
    )


def _reported(log: Path, records: list[Record]) -> ReportedRun:
    name = plan_of(records).variant or log.absolute().parent.name
    run, summary = records[0], summarise(records)
    assert isinstance(run, Run)
    return ReportedRun(name, log, records, summary, recommend(run, summary))
