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
from asrswitch.plan import Clip, Model, Plan, Strategy
from asrswitch.records import (
    SCHEMA,
    End,
    Failure,
    LogWriter,
    Record,
    Run,
    TornLineWarning,
    Transcription,
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
        st.builds(End, reason=st.just("complete")),
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
    path = tmp_path / "run.jsonl"
    lines = [{"record": "run"} | run, {"record": "transcription"} | spoken]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    assert read_log(path) == [RUN, SPOKEN]


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
        (b"\xff\xfe\n{}\n", "line 1"),
        (
            msgspec.json.encode(RUN) + b"\ngarbage\n" + msgspec.json.encode(End(reason="complete")) + b"\n",
            "line 2",
        ),
        (msgspec.json.encode(End(reason="complete")) + b"\n", "does not begin"),
        (msgspec.json.encode(RUN).replace(b'"schema":1', b'"schema":99') + b"\n", "schema 99"),
        (b'{"record":"run","schema":2,"unlike":"ours"}\n', "schema 2"),
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
