from __future__ import annotations

import resource
import warnings
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrswitch.errors import LogError
from asrswitch.figures import Figures
from asrswitch.machine import Machine
from asrswitch.memory.cgroup import ControlGroup
from asrswitch.memory.probe import Memory
from asrswitch.memory.sampler import Samples
from asrswitch.model import Model
from asrswitch.plan import Clip, Plan, Strategy
from asrswitch.records import (
    SCHEMA,
    End,
    Failure,
    LogWriter,
    Malloc,
    Reading,
    Record,
    Run,
    SamplingCost,
    Timeline,
    TornLineWarning,
    Transcription,
    Trim,
    WorkerStarted,
    read_log,
)
from helpers.accounts import accounts

PLAN = Plan((Model("a", "/a"),), (Clip("/c", None),), 1, 1, None, None, Strategy.RELOAD, 1, 1.0, "/out")
RUN = Run(SCHEMA, "0", "2026-01-01T00:00:00+00:00", "/lib", PLAN, Machine("cpu", 1, 1 << 30, "s", "c", "p"))

SPOKEN = Transcription(
    cycle=0, iteration=1, model="a", worker=1, clip="/c", audio_s=1.0, raw="x", language=None, text="x",
    normalised="x", reference=None, reference_normalised=None, wer=None, cer=None,
    figures=Figures(9.0, 0.9, 1, 1, 1, 5.0, 5.0, None, 1, "callbacks", None, None),
)  # fmt: skip

PLACE = {"cycle": 0, "iteration": 1, "model": "a", "worker": 1}
MEMORY = Memory(5, 4, 3, 2, 3, 0, 6, "reading", "smaps_rollup", 90, 1, 5, 1, 7, 0, 1 << 33)
sizes = st.integers(0, 1 << 62)
cgroups = st.none() | st.builds(ControlGroup, sizes, st.none() | sizes, st.none() | sizes)
mallocs = st.builds(Malloc, sizes, sizes, sizes, sizes)
few_sizes = st.lists(sizes, max_size=4).map(tuple)

records = st.lists(
    st.one_of(
        st.builds(
            lambda account: msgspec.structs.replace(SPOKEN, stages=account.stages),
            accounts,
        ),
        st.builds(WorkerStarted, worker=st.integers(1, 9), pid=st.integers(1, 99999), log=st.text()),
        st.builds(
            Failure,
            cycle=st.integers(0, 99),
            iteration=st.integers(1, 99),
            model=st.text(),
            worker=st.integers(1, 9),
            phase=st.sampled_from(["start", "load", "transcribe", "restart", "unload"]),
            kind=st.sampled_from(["died", "timeout", "error"]),
            message=st.text(),
        ),
        st.builds(
            lambda memory, malloc: Reading(**PLACE, point="after_load", memory=memory, malloc=malloc),
            st.builds(msgspec.structs.replace, st.just(MEMORY), minor_faults=sizes, cgroup=cgroups),
            st.none() | mallocs,
        ),
        st.builds(
            lambda malloc, ms: Trim(
                **PLACE,
                point="after_unload",
                on="copy",
                anonymous_before_bytes=2,
                anonymous_bytes=1,
                malloc=malloc,
                ms=ms,
            ),
            st.none() | mallocs,
            st.floats(0, 1e9),
        ),
        st.builds(
            lambda samples: Timeline(**PLACE, until="failure", samples=samples),
            st.builds(
                Samples,
                ms=st.lists(st.floats(0, 1e9), max_size=4).map(tuple),
                anonymous_bytes=few_sizes,
                file_bytes=few_sizes,
                count=sizes,
                cpu_ms=st.floats(0, 1e9),
            ),
        ),
        st.builds(
            End,
            reason=st.just("complete"),
            sampling=st.none() | st.builds(SamplingCost, sizes, st.floats(0, 1e9), st.floats(0, 1e9)),
        ),
    ),
    max_size=5,
)


@given(records)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, some: list[Record]) -> None:
    path = tmp_path_factory.mktemp("log") / "run.jsonl"
    with LogWriter(path) as log:
        for record in [RUN, *some]:
            log.append(record)
    assert read_log(path) == [RUN, *some]


def test_a_log_without_newer_fields_is_read(tmp_path: Path) -> None:
    run = msgspec.to_builtins(RUN)
    assert not (
        run["plan"].pop("preload") or run["plan"].pop("lock") or run["plan"]["models"][0].pop("synthetic")
    )
    spoken = msgspec.to_builtins(SPOKEN)
    assert spoken.pop("statistics") == spoken.pop("stages") == ()
    reading = Reading(**PLACE, point="after_load", memory=MEMORY, malloc=None)
    old = msgspec.to_builtins(reading)
    newer = ("shared_bytes", "minor_faults", "major_faults", "available_bytes", "cgroup", "read_bytes")
    for name in newer:
        del old["memory"][name]
    assert run["plan"].pop("cache") == "as-is"
    assert run["plan"].pop("trim") == "never" and run["plan"].pop("sample_hz") == 0  # as it was then
    path = tmp_path / "run.jsonl"
    lines = [
        {"record": "run"} | run,
        {"record": "transcription"} | spoken,
        {"record": "reading"} | old,
        {"record": "end", "reason": "complete"},
    ]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    unknown = msgspec.structs.replace(MEMORY, **dict.fromkeys(newer))
    then = msgspec.structs.replace(reading, memory=unknown)
    assert read_log(path) == [RUN, SPOKEN, then, End(reason="complete")]


@settings(max_examples=200)
@given(records, st.integers(min_value=1, max_value=400))
def test_a_log_cut_anywhere_loses_at_most_its_last_line(
    tmp_path_factory: pytest.TempPathFactory, some: list[Record], cut: int
) -> None:
    lines = [msgspec.json.encode(record) + b"\n" for record in [RUN, *some]]
    whole = b"".join(lines)
    cut = max(len(lines[0]), len(whole) - cut)
    path = tmp_path_factory.mktemp("log") / "run.jsonl"
    path.write_bytes(whole[:cut])
    complete = whole[:cut].count(b"\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read = read_log(path)
    torn = len([item for item in caught if issubclass(item.category, TornLineWarning)])
    assert read[:complete] == [RUN, *some][:complete]
    # what follows the last newline is a torn line, a whole record that lacks only its newline, or nothing
    assert len(read) + torn == complete + (whole[cut - 1 : cut] != b"\n")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "does not begin"),
        (b"hello\n", "does not begin"),
        (b"\xff\xfe\n{}\n", "does not begin with a run's record: it is no log of ours"),
        (
            msgspec.json.encode(RUN) + b"\ngarbage\n" + msgspec.json.encode(End(reason="complete")) + b"\n",
            "line 2 is not a record .*: copy it again, or take that line out",
        ),
        (msgspec.json.encode(End(reason="complete")) + b"\n", "does not begin"),
        (msgspec.json.encode(RUN).replace(b'"schema":3', b'"schema":99') + b"\n", "schema 99"),
        (b'{"record":"run","schema":4,"unlike":"ours"}\n', "schema 4"),
    ],
)
def test_what_is_no_log_of_ours_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TornLineWarning)
        with pytest.raises(LogError, match=says) as caught:
            read_log(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_log_and_a_full_disk_are_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="cannot be read"):
        read_log(tmp_path / "run.jsonl")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with LogWriter(tmp_path / "run.jsonl") as log:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            with pytest.raises(LogError, match="File too large"):
                log.append(RUN)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_log_that_is_there_is_never_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(b"another run's\n")
    with pytest.raises(LogError, match="File exists"):
        LogWriter(path)
    assert path.read_bytes() == b"another run's\n"


def test_a_log_of_the_first_schema_is_still_read(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    run = msgspec.to_builtins(RUN) | {"schema": 1}
    for later in ("trim", "sample_hz", "order", "seed", "allow_concurrent"):
        del run["plan"][later]
    lines = [
        run,
        {"record": "worker", "worker": 1, "pid": 2, "log": "l"},
        {"record": "end", "reason": "complete"},
    ]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    records = read_log(path)
    assert isinstance(records[0], Run) and records[0].plan == PLAN
    assert len(records) == 3
