"""The command line from outside: what it prints and its exit codes."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from asrswitch.cli import VERBS, main
from asrswitch.commands.run import make_parser
from helpers.records import cycle, run_of
from support import ROOT, run_here, wait_for, without_progress

Completed = subprocess.CompletedProcess[str]


def write_log(directory: Path) -> Path:
    """The log of a short run."""
    records = [run_of(1), *cycle(1, "a"), *cycle(2, "b")]
    log = directory / "run.jsonl"
    log.write_bytes(b"".join(msgspec.json.encode(record) + b"\n" for record in records))
    return log


def test_help_fits_a_screen_and_shows_examples() -> None:
    done = run_here("--help", COLUMNS="120")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 40
    lines = [line.strip() for line in done.stdout.splitlines()]
    assert "python -m asrswitch --iters 50" in lines  # each example on a line of its own
    assert "130 stopped by Ctrl-C" in done.stdout


def test_help_names_every_option_there_is() -> None:
    done = run_here("--help")
    for option in make_parser()._option_string_actions:
        assert re.search(rf"(?<![-\w]){option}(?![-\w])", done.stdout), option
    assert run_here("run", "--help").stdout == done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--iters"),
        (("--iters", "many"), "--iters"),
        (("--iters", "0"), "--iters"),
        (("--iters", "1", "--strategy", "pray"), "--strategy"),
        (("--iters", "1", "--model", "a=/nowhere.bin"), "/nowhere.bin"),
        (("--iters", "1", "--unknown"), "--unknown"),
        (("--iters", "1", "--dry"), "--dry"),
        (("--iters", "1", "--timeout", "inf"), "--timeout"),
        (("--iters", "9" * 30), "--iters"),
        (("report",), "RUN_DIR"),
        (("models",), "convert"),
        (("models", "convert", "a", "b", "--type", "q9"), "q9"),
        (("models", "synth", "b"), "--preset"),
        (("models", "synth", "--preset", "9b", "b"), "9b"),
        (("models", "synth", "--preset", "tiny", "--seed", "-1", "b"), "--seed"),
        (("models", "show"), "FILE"),
        (("models", "show", "a", "--clip", "0"), "--clip"),
        (("models", "show", "a", "--clip", "nan"), "--clip"),
        (("models", "show", "a", "--context", "-1"), "--context"),
        (("models", "show", "a", "--threads", "0"), "--threads"),
        (("models", "show", "a", "--max-new-tokens", "0"), "--max-new-tokens"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words: tuple[str, ...], says: str) -> None:
    done = run_here(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_report_of_nothing_is_one_line(tmp_path: Path) -> None:
    done = run_here("report", str(tmp_path))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert str(tmp_path) in done.stderr


def test_a_dry_run_prints_the_schedule_and_touches_nothing(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    done = run(script("a"), script("b"), iterations=3, options=("--dry-run",))
    assert done.returncode == 0
    assert "6 cycles, reload" in done.stdout
    assert done.stdout.count("load, transcribe, unload") == 6
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"not a library"])
def test_a_library_that_cannot_be_used_is_one_line(
    content: bytes | None, script: Callable[..., str], clip: Path, tmp_path: Path
) -> None:
    library = tmp_path / "lib.so"
    if content is not None:
        library.write_bytes(content)
    out = str(tmp_path / "out")
    words = ("--iters", "1", "--model", script("a"), "--audio", str(clip), "--out", out)
    done = run_here(*words, "--library", str(library))
    assert done.returncode == (2 if content is None else 1)
    assert len(done.stderr.splitlines()) == 1
    assert str(library) in done.stderr


@pytest.mark.parametrize("content", [b"", b"no audio in here", b"RIFF\x04\x00\x00\x00WAVE"])
def test_a_bad_clip_is_one_line(
    content: bytes, run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(content)
    done = run(script("a"), options=("--audio", str(bad)))
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert str(bad) in done.stderr


def test_an_argument_that_is_no_text_is_one_line() -> None:
    done = run_here("--iters", "1", "--audio", os.fsdecode(b"/tmp/\xff.wav"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "not UTF-8" in done.stderr


def test_control_characters_in_an_argument_are_escaped(tmp_path: Path) -> None:
    done = run_here("--iters", "1", "--audio", "/nowhere/a\n\x1b[31m.wav")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "/nowhere/a\\n\\x1b[31m.wav" in done.stderr


def test_ctrl_c_during_the_imports_is_no_traceback() -> None:
    code = """
import runpy, sys
class Stopped:
    def find_spec(self, name, *_):
        if name == "asrswitch.cli":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Stopped())
runpy.run_module("asrswitch", run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


def test_a_conversion_that_cannot_begin_is_one_line(tmp_path: Path) -> None:
    done = run_here("models", "convert", str(tmp_path / "nowhere"), str(tmp_path / "out.bin"))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_output_that_cannot_be_encoded_is_escaped(
    command: Callable[..., list[str]], script: Callable[..., str]
) -> None:
    environ = os.environ | {"PYTHONIOENCODING": "ascii"}
    words = command(script("大", text="零"), iterations=1)
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "\\u5927" in done.stdout


def test_long_lines_outside_the_tables_are_whole(
    command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    out = tmp_path / ("long-" * 40)
    words = command(script("a", text="x"), iterations=1, options=("--out", str(out)))
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert f"log: {out / 'run.jsonl'}" in done.stdout.splitlines()


def closed_pipe() -> int:
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def asrswitch_into(output: int, *words: str) -> Completed:
    """Run it with a descriptor as its standard output."""
    return subprocess.run(
        [sys.executable, "-m", "asrswitch", *words],
        cwd=ROOT,
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("--version",),
        ("bench", "--help"),
        ("leak-check", "--help"),
        ("doctor",),
        ("doctor", "--json"),
        ("models", "list"),
        ("models", "show", "asrswitch/models/digits-small.bin"),
        ("--completion", "bash"),
    ],
    ids=" ".join,
)
def test_a_reader_that_goes_away_early_is_no_error(words: tuple[str, ...]) -> None:
    output = closed_pipe()
    done = asrswitch_into(output, *words)
    os.close(output)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_reader_of_reports_that_goes_away_early_is_no_error(
    run: Callable[..., Completed], script: Callable[..., str], tmp_path: Path
) -> None:
    run(script("a", text="x"), iterations=2)
    runs = [str(tmp_path / "out")] * 2
    output = closed_pipe()
    for words in (("report", runs[0]), ("report", runs[0], "--format", "json"), ("compare", *runs)):
        done = asrswitch_into(output, *words)
        assert (done.returncode, done.stderr) == (141, "")
    done = asrswitch_into(output, "report", runs[0], "--check")
    assert (done.returncode, done.stderr) == (4, "")  # the verdict, which nobody has seen, is inconclusive
    os.close(output)


@pytest.mark.parametrize(
    ("where", "says"),
    [(">/dev/full", "No space left"), (">&-", "Bad file descriptor"), (">&7", "Broken pipe")],
)
def test_a_run_whose_output_goes_away_goes_on_to_its_end(
    where: str, says: str, command: Callable[..., list[str]], script: Callable[..., str], tmp_path: Path
) -> None:
    words = command(script("a", text="x"), iterations=3)
    output = closed_pipe()
    done = subprocess.run(
        ["bash", "-c", f'exec 7>&"$1"; shift; exec "$@" {where}', "run", str(output), *words],
        cwd=ROOT,
        pass_fds=(output,),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(output)
    assert done.returncode == 1
    (error,) = without_progress(done.stderr).splitlines()
    assert says in error
    assert "3 of 3 iterations, complete" in run_here("report", str(tmp_path / "out")).stdout


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (("--help",), "send it to a file or a pipe that is there, with room"),
        (("--version",), "send it to a file or a pipe that is there, with room"),
        (("report", "--help"), "send it to a file or a pipe that is there, with room"),
        (("report", "RUN"), "use -o FILE"),
        (("compare", "RUN", "RUN"), "use -o FILE"),
        (("models", "list"), "send it to a file or a pipe that is there, with room"),
        (("doctor",), "send it to a file or a pipe that is there, with room"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_the_remedy_for_a_full_output_is_the_commands_own(
    words: tuple[str, ...], remedy: str, tmp_path: Path
) -> None:
    write_log(tmp_path)
    words = tuple(str(tmp_path) if word == "RUN" else word for word in words)
    with Path("/dev/full").open("w") as full:
        done = asrswitch_into(full.fileno(), *words)
    says = "asrswitch: standard output: cannot be written (No space left on device)"
    assert (done.returncode, done.stderr) == (1, f"{says}; {remedy}\n")


def test_a_closed_output_is_an_error() -> None:
    words = ["bash", "-c", '"$0" -m asrswitch models list >&-', sys.executable]
    done = subprocess.run(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "Bad file descriptor" in done.stderr


LONG = "x" * 300


@pytest.mark.parametrize(
    "words",
    [
        ("--iters", "1", "--model", f"a={LONG}"),
        ("--iters", "1", "--audio", LONG),
        ("--iters", "1", "--reference", f"@{LONG}"),
        ("--iters", "1", "--library", LONG),
        ("--iters", "1", "--out", LONG),
        ("report", LONG),
        ("bench", "--model", LONG),
        ("bench", "--audio", LONG),
        ("bench", "--library", LONG),
        ("bench", "--out", LONG),
        ("models", "show", LONG),
        ("models", "convert", LONG, "out.bin"),
        ("models", "synth", "--preset", "tiny", LONG),
    ],
    ids=lambda words: " ".join(words).replace(LONG, "LONG"),
)
def test_a_name_too_long_for_a_file_is_one_line(words: tuple[str, ...]) -> None:
    done = run_here(*words)
    assert done.returncode in (1, 2)
    assert (done.stdout, len(done.stderr.splitlines())) == ("", 1)
    assert done.stderr.startswith("asrswitch: ") and LONG in done.stderr


def test_square_brackets_in_a_label_are_no_markup(
    command: Callable[..., list[str]], script: Callable[..., str]
) -> None:
    words = command(f"a[/b]={script('a', text='x').partition('=')[2]}", iterations=2)
    environ = os.environ | {"FORCE_COLOR": "1"}  # progress as on a terminal
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "iteration 1/2 a[/b]" in done.stderr and "a[/b]" in done.stdout


def test_a_model_is_made_silently_where_standard_error_is_no_terminal(tmp_path: Path) -> None:
    done = run_here("models", "synth", "--preset", "tiny", str(tmp_path / "out.bin"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_sigterm_while_a_model_is_made_leaves_nothing(tmp_path: Path) -> None:
    words = ("models", "synth", "--preset", "0.6b", str(tmp_path / "out.bin"))
    with subprocess.Popen(
        [sys.executable, "-m", "asrswitch", *words], cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(lambda: any(tmp_path.glob(".out.bin.*.partial")))
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (143, "asrswitch: stopped by SIGTERM\n")
    assert list(tmp_path.iterdir()) == []


HELPS = [*VERBS, *(f"models {verb}" for verb in ("fetch", "list", "convert", "synth", "show"))]


@pytest.mark.parametrize("verb", HELPS)
def test_each_help_fits_a_screen_and_shows_how_it_is_used(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    assert main([*verb.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 110
    called = "asrswitch" if verb == "run" else f"asrswitch {verb}"
    assert lines[0].startswith(f"usage: {called} ")
    assert sum(f"{called} " in line for line in lines) >= 2
    usage = lines[: lines.index("")]
    assert len(usage) <= 3


SAME = {
    "-m": "--model", "-a": "--audio", "-t": "--threads", "-c": "--context", "-n": "--max-new-tokens",
    "-l": "--library", "-o": "--out", "-f": "--format",
}  # fmt: skip


@pytest.mark.parametrize("verb", HELPS)
def test_short_and_long_options_go_together_in_all_verbs(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*verb.split(), "--help"])
    text = capsys.readouterr().out
    for short, long in SAME.items():
        if re.search(rf"^ *(-\w, )?{long}\b", text, re.MULTILINE):
            assert f"{short}, {long}" in text
        elif re.search(rf"^ *{short}, --", text, re.MULTILINE):
            raise AssertionError(f"{short} is not {long}")


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--iters"), ("run", "--out"), ("run", "--model"), ("run", "--resume"),
        ("run", "--experiment"),
        ("transcribe", "a.wav", "--model"), ("transcribe", "a.wav", "--out"), ("transcribe", "FILE"),
        ("transcribe", "a.wav", "--library"), ("transcribe", "a.wav", "--language"),
        ("bench", "--audio"), ("bench", "--model"), ("bench", "--type"), ("leak-check", "--driver"),
        ("report", "RUN_DIR"), ("report", "x", "--out"), ("compare", "RUN"), ("compare", "A", "RUN"),
        ("compare", "A", "B", "--fail-on"), ("models", "show", "FILE"), ("models", "fetch", "NAME"),
        ("models", "convert", "HF_DIR"), ("models", "convert", "a", "OUT.bin"),
        ("models", "fetch", "x", "--dest"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_empty_word_is_wrong_usage(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    *before, named = words
    given = [*before, named, ""] if named.startswith("--") else [*before, ""]
    assert main(given) == 2
    output, errors = capsys.readouterr()
    assert (output, errors) == ("", f"asrswitch: {named} '': is empty; give a value, or leave it out\n")


def test_an_empty_reference_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--iters", "1", "--dry-run", "--reference", ""]) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("rum", "--iters", "1"), "'rum': no such verb; perhaps run; there are run, transcribe, "),
        (("help",), "'help': no such verb; there are run, "),
        (("models", "show", "a", "b"), "unrecognized arguments: b; see asrswitch models show --help"),
        (("models", "list", "foo"), "unrecognized arguments: foo; see asrswitch models list --help"),
        (("models", "foo"), "foo: use one of fetch, list, convert, synth, show; see asrswitch models --help"),
        (("-n", "x"), "--max-new-tokens x: give a whole number"),
        (("--timeout", "x"), "--timeout x: give a number"),
        (("bench", "--format", "html"), "--format html: use one of text, md, json; see asrswitch bench"),
        (("--memory-limit", "-3M"), "--memory-limit: give a value after it; one that begins with - as "),
        (("bench", "-a", "x", "-a", "y"), "--audio is given twice"),
        (("leak-check", "-a", "x", "-a", "y"), "--audio is given twice"),
        (("transcribe", "x", "-m", "a", "-m", "b"), "--model is given twice"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_a_mistake_in_the_words_is_told_in_ours(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith("asrswitch: ") and says in errors
    assert errors.count("\n") == 1


CLIP = str(ROOT / "asrswitch" / "samples" / "phone-zh.wav")


@pytest.mark.parametrize(
    "words",
    [
        ("--iters", "1", "--dry-run", "-m", "GONE"),
        ("--iters", "1", "--dry-run", "-a", "GONE"),
        ("--iters", "1", "-l", "GONE"),
        ("--resume", "GONE"),
        ("transcribe", "GONE"),
        ("transcribe", CLIP, "-m", "GONE"),
        ("transcribe", CLIP, "-l", "GONE"),
        ("transcribe", CLIP, "-o", "GONE/x"),
        ("bench", "-a", "GONE"),
        ("bench", "-l", "GONE"),
        ("bench", "-o", "GONE/x"),
        ("leak-check", "-m", "GONE"),
        ("leak-check", "-l", "GONE"),
        ("report", "GONE"),
        ("report", "RUN", "-o", "GONE/x"),
        ("report", "RUN", "-o", "RUN"),
        ("compare", "RUN", "GONE"),
        ("compare", "RUN", "RUN", "-o", "GONE/x"),
        ("models", "show", "GONE"),
        ("models", "convert", "GONE", "x.bin"),
        ("models", "synth", "--preset", "tiny", "GONE/x.bin"),
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_wrong_usage_in_each_verb(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_log(tmp_path)
    places = {"GONE": str(tmp_path / "gone.bin"), "RUN": str(tmp_path)}
    named = [re.sub("GONE|RUN", lambda found: places[found[0]], word) for word in words]
    assert main(named) == 2
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.count("\n") == 1 and str(tmp_path) in errors and "; " in errors


@pytest.mark.parametrize(
    "words",
    [
        ("report", "RUN", "-o"),
        ("report", "RUN", "-f", "csv", "-o"),
        ("compare", "RUN", "RUN", "-o"),
        ("bench", "-o"),
        ("transcribe", CLIP, "-m", "digits-small", "-o"),
    ],
    ids=" ".join,
)
def test_no_result_is_written_over_a_log_or_a_model(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_log(tmp_path)
    model = tmp_path / "model.bin"
    model.write_bytes((ROOT / "asrswitch" / "models" / "digits-small.bin").read_bytes())
    for path, kind in ((log, "a run's log"), (model, "a model")):
        before = path.read_bytes()
        assert main([str(tmp_path) if word == "RUN" else word for word in words] + [str(path)]) == 2
        assert f"--out {path}: is {kind}, which would be lost" in capsys.readouterr().err
        assert path.read_bytes() == before


@pytest.mark.parametrize("words", [("synth", "--preset", "tiny"), ("convert", "CHECKPOINT")], ids=" ".join)
def test_no_model_is_made_over_another_file(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    given = [str(folder) if word == "CHECKPOINT" else word for word in words]
    clip = tmp_path / "clip.wav"
    clip.write_bytes(b"RIFF")
    assert main(["models", *given, str(clip), "--force"]) == 2
    assert f"{clip}: is a file, and no model" in capsys.readouterr().err
    model = tmp_path / "model.bin"
    model.write_bytes(b"ggmm and so on")
    assert main(["models", *given, str(model)]) == 2
    assert f"{model}: a model is there; name another file, or give --force" in capsys.readouterr().err
    assert (clip.read_bytes(), model.read_bytes()) == (b"RIFF", b"ggmm and so on")
    if words[0] == "synth":
        assert main(["models", *given, str(model), "--force"]) == 0
        assert model.stat().st_size > 100_000


@pytest.mark.parametrize("words", [("bench", "-o", "OUT"), ("leak-check",), ("--iters", "1")], ids=" ".join)
def test_no_place_for_temporary_files_is_told_as_such(words: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "asrswitch", *words]
    done = subprocess.run(
        [str(tmp_path / "out") if word == "OUT" else word for word in command],
        cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
    assert done.stderr.startswith("asrswitch: no temporary directory can be made (No usable temporary")
    assert "name a place by TMPDIR" in done.stderr


def test_ctrl_c_is_told_by_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("asrswitch.commands.compare.read_sides", stop)
    assert main(["compare", "a", "b"]) == 130
    assert capsys.readouterr().err == "asrswitch: stopped by SIGINT\n"


def on_a_terminal(width: int, *words: str) -> list[str]:
    """The lines that a terminal of so many columns gets."""
    controller, terminal = os.openpty()
    environ = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "asrswitch", *words],
        cwd=ROOT,
        env=environ | {"COLUMNS": str(width), "NO_COLOR": "1", "TERM": "xterm"},
        stdout=terminal,
        stderr=subprocess.DEVNULL,
    )
    os.close(terminal)
    seen = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(controller, 100_000):
            seen += piece
    os.close(controller)
    process.wait(60)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen.decode()).replace("\r", "").splitlines()


@pytest.mark.parametrize(
    "words", [("compare", "RUN", "RUN"), ("models", "list"), ("models", "show", "digits-small"), ("doctor",)],
    ids=" ".join,
)  # fmt: skip
def test_a_terminal_of_80_columns_breaks_no_word(words: tuple[str, ...], tmp_path: Path) -> None:
    write_log(tmp_path)
    lines = on_a_terminal(80, *(str(tmp_path) if word == "RUN" else word for word in words))
    assert len(lines) > 5
    for line in lines:
        assert len(line) <= 80 or len(line.split()) <= 1, line  # one long word: the terminal's own
