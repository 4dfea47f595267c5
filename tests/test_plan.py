from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from asrswitch.errors import UsageError
from asrswitch.plan import Options, Strategy, make_out_directory, make_plan

NOW = datetime(2026, 1, 2, 3, 4, 5)


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "m.bin"
    path.write_bytes(b"x")
    return str(path)


def plan_of(model: str, clip: Path, environ: dict[str, str] | None = None, **options: object):  # type: ignore[no-untyped-def]
    given = {"iterations": "3", "models": [f"m={model}"], "audio": [str(clip)]} | options
    return make_plan(Options(**given), environ or {}, NOW)  # type: ignore[arg-type]


def test_options_win_over_the_environment_and_the_environment_over_defaults(model: str, clip: Path) -> None:
    environ = {"INFERENCE_THREADS": "3", "CONTEXT_LENGTH": "700", "ASR_LANGUAGE": "zh"}
    plan = plan_of(model, clip, environ)
    assert (plan.threads, plan.context, plan.language) == (3, 700, "Chinese")
    plan = plan_of(model, clip, environ, threads=5, context=9, language="english")
    assert (plan.threads, plan.context, plan.language) == (5, 9, "English")
    plan = plan_of(model, clip)
    assert plan.threads >= 1
    assert (plan.context, plan.language, plan.strategy) == (None, None, Strategy.RELOAD)
    assert plan.out.endswith("runs/20260102-030405")


def test_the_reference_is_given_read_or_found_beside_the_clip(model: str, tmp_path: Path) -> None:
    clip = tmp_path / "a.wav"
    clip.write_bytes(b"RIFF")
    assert plan_of(model, clip).clips[0].reference is None
    clip.with_suffix(".txt").write_text("beside\n", encoding="utf-8")
    assert plan_of(model, clip).clips[0].reference == "beside"
    assert plan_of(model, clip, references=["given"]).clips[0].reference == "given"
    other = tmp_path / "other.txt"
    other.write_text("零九", encoding="utf-8")
    assert plan_of(model, clip, references=[f"@{other}"]).clips[0].reference == "零九"


@pytest.mark.parametrize(
    ("options", "environ", "names"),
    [
        ({"iterations": "0"}, {}, "--iters"),
        ({"threads": 0}, {}, "--threads"),
        ({"context": -1}, {}, "--context"),
        ({"max_new_tokens": 0}, {}, "--max-new-tokens"),
        ({"timeout_s": 0.0}, {}, "--timeout"),
        ({"cache": "tepid"}, {}, "--cache tepid: use one of as-is, cold, warm"),
        ({"timeout_s": float("nan")}, {}, "--timeout"),
        ({"timeout_s": float("inf")}, {}, "--timeout"),
        ({"iterations": "1000001"}, {}, "--iters"),
        ({"threads": 1_025}, {}, "--threads"),
        ({"context": (1 << 24) + 1}, {}, "--context"),
        ({"max_new_tokens": (1 << 24) + 1}, {}, "--max-new-tokens"),
        ({"models": ["a\nb=/nowhere/m.bin"]}, {}, "a\\nb"),
        ({"references": ["@"]}, {}, "after the @"),
        ({"language": "Klingon"}, {}, "Klingon"),
        ({"models": ["noname"]}, {}, "no model of this name is here"),
        ({"models": ["a=/nowhere/m.bin"]}, {}, "/nowhere/m.bin"),
        ({"models": ["a=/"]}, {}, "not a file"),
        ({"audio": ["/nowhere/a.wav"]}, {}, "/nowhere/a.wav"),
        ({"references": ["one", "two"]}, {}, "2 --reference for 1 --audio"),
        ({"references": ["@/nowhere/a.txt"]}, {}, "/nowhere/a.txt"),
        ({}, {"INFERENCE_THREADS": "many"}, "INFERENCE_THREADS=many"),
        ({}, {"CONTEXT_LENGTH": "0"}, "CONTEXT_LENGTH"),
        ({}, {"ASR_LANGUAGE": "Latin"}, "ASR_LANGUAGE=Latin: unknown"),
    ],
)
def test_what_cannot_be_done_is_one_line_that_names_it(
    model: str, clip: Path, options: dict[str, object], environ: dict[str, str], names: str
) -> None:
    with pytest.raises(UsageError) as caught:
        plan_of(model, clip, environ, **options)
    assert names in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_sizes_of_model_and_clip_are_known(model: str, clip: Path) -> None:
    plan = plan_of(model, clip)
    assert (plan.models[0].bytes, plan.clips[0].bytes) == (1, clip.stat().st_size)


def test_small_models_come_first_unless_the_order_is_given(clip: Path, tmp_path: Path) -> None:
    words = []
    for label, size in (("b", 30), ("a", 10), ("c", 20)):
        (tmp_path / label).write_bytes(b"x" * size)
        words.append(f"{label}={tmp_path / label}")
    for order, labels in (("small-first", "acb"), ("given", "bac"), ("shuffle", "bac")):
        plan = plan_of("", clip, models=words, order=order)
        assert "".join(model.label for model in plan.models) == labels


def test_an_embedded_model_that_is_missing_is_named(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asrswitch.plan.resources.files", lambda _package: tmp_path)
    with pytest.raises(UsageError, match=r"digits-small\.bin.*install again.*--model PATH"):
        make_plan(Options(iterations="1", audio=[str(clip)]), {}, NOW)


def test_a_label_used_twice_is_refused(model: str, clip: Path) -> None:
    with pytest.raises(UsageError, match="used twice"):
        plan_of(model, clip, models=[f"m={model}", f"m={model}"])


def test_an_out_directory_is_made_and_never_a_log_overwritten(tmp_path: Path) -> None:
    out = make_out_directory(str(tmp_path / "a" / "b"))
    assert out.is_dir()
    (out / "run.jsonl").write_text("")
    with pytest.raises(UsageError, match="earlier run"):
        make_out_directory(str(out))
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot make"):
        make_out_directory(str(tmp_path / "file" / "out"))


@pytest.mark.parametrize(
    ("word", "iterations", "most_s"),
    [
        ("7", 7, None),
        ("auto", 1000, None),
        ("auto:500", 500, None),
        ("auto:90s", 1_000_000, 90.0),
        ("auto:30m", 1_000_000, 1800.0),
        ("auto:2h", 1_000_000, 7200.0),
    ],
)
def test_iterations_are_a_number_or_as_many_as_it_takes(
    model: str, clip: Path, word: str, iterations: int, most_s: float | None
) -> None:
    plan = plan_of(model, clip, iterations=word)
    assert (plan.iterations, plan.most_s, plan.until_decided) == (iterations, most_s, word != "7")


@pytest.mark.parametrize(
    "word", ["auto:", "auto:0", "auto:0s", "auto:5x", "automatic", "1.5", "", "30m", "auto:-1"]
)
def test_other_words_for_iterations_are_refused(model: str, clip: Path, word: str) -> None:
    with pytest.raises(UsageError, match="--iters"):
        plan_of(model, clip, iterations=word)


@pytest.mark.parametrize(
    ("word", "size"),
    [
        ("1", 1),
        ("300M", 300 << 20),
        ("300MB", 300 << 20),
        ("1.5GiB", 3 << 29),
        ("2g", 2 << 30),
        ("4k", 4096),
        ("1T", 1 << 40),
    ],
)
def test_sizes(model: str, clip: Path, word: str, size: int) -> None:
    assert plan_of(model, clip, memory_limit=word).memory_limit_bytes == size
    assert plan_of(model, clip, restart_above=word).restart_above_bytes == size


@pytest.mark.parametrize("word", ["", "M", "-1", "1P", "1 GB of it", "nan", "1e9", "0", "9000000T"])
def test_what_is_no_size_is_refused(model: str, clip: Path, word: str) -> None:
    with pytest.raises(UsageError, match="--memory-limit"):
        plan_of(model, clip, memory_limit=word)


def test_restart_above_nothing_is_always(model: str, clip: Path) -> None:
    assert plan_of(model, clip, restart_above="0").restart_above_bytes == 0
    assert plan_of(model, clip).restart_above_bytes is None


def test_what_a_run_is_called_and_what_is_to_be_known_of_it(model: str, clip: Path) -> None:
    plan = plan_of(model, clip, label="before", metadata=["host=a=b", "note="])
    assert (plan.label, plan.metadata) == ("before", {"host": "a=b", "note": ""})
    for word in ("note", "=x"):
        with pytest.raises(UsageError, match="--metadata"):
            plan_of(model, clip, metadata=[word])
