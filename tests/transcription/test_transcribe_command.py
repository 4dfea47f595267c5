"""``asrswitch transcribe`` from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asrswitch.audio import SAMPLE_RATE
from asrswitch.cli import main
from asrswitch.convert.quantise import TensorType
from asrswitch.convert.synth import synthesise
from support import ROOT, run_here
from transcription.speech import SAMPLES, spoken

COMMAND = [sys.executable, "-m", "asrswitch", "transcribe"]
EN, ZH = str(SAMPLES / "phone-en.wav"), str(SAMPLES / "phone-zh.wav")
EN_TEXT, ZH_TEXT = "zero nine zero zero zero seven three three three one", "零九零零零七三三三一"
Completed = subprocess.CompletedProcess[str]


def transcribe(*words: str, **environ: str) -> Completed:
    return run_here("transcribe", *words, **environ)


def piped(content: bytes, *words: str) -> Completed:
    done = subprocess.run([*COMMAND, *words], cwd=ROOT, input=content, capture_output=True, check=False)
    return Completed(words, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_a_file_is_a_line_on_stdout_and_the_model_a_note_on_stderr() -> None:
    done = transcribe(EN)
    assert (done.returncode, done.stdout) == (0, EN_TEXT + "\n")
    assert len(done.stderr.splitlines()) == 1
    assert "digits only" in done.stderr
    assert transcribe(EN, "-m", "digits-large").stderr == ""


def test_several_files_have_headings_and_a_bad_one_does_not_stop_the_others(tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no audio")
    worse = tmp_path / "worse.wav"
    worse.write_bytes(b"RIFF\x04\x00\x00\x00WAVE")
    done = transcribe("-m", "digits-large", str(bad), EN, str(worse), ZH)
    assert done.returncode == 1
    assert done.stdout == f"==> {EN} <==\n{EN_TEXT}\n\n==> {ZH} <==\n{ZH_TEXT}\n"
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert str(bad) in lines[0] and str(worse) in lines[1]


def test_a_file_that_is_not_there_is_told_before_anything_is_done(tmp_path: Path) -> None:
    """A name that was mistyped is not to wait for the hour of audio before it."""
    out = tmp_path / "out.txt"
    done = transcribe("-m", "digits-large", EN, "/nowhere/a.wav", "-o", str(out))
    assert (done.returncode, done.stdout) == (2, "")
    says = "/nowhere/a.wav: there is no such file; check the path given to transcribe"
    assert done.stderr == f"asrswitch: {says}\n"
    assert not out.exists()


def test_a_pipe_of_the_shell_is_a_file() -> None:
    reading, writing = os.pipe()
    os.write(writing, Path(EN).read_bytes()[:4])
    os.close(writing)
    done = transcribe("-m", "digits-large", f"/proc/self/fd/{reading}")
    os.close(reading)
    assert done.returncode == 1  # for what came through it
    assert "no such file" not in done.stderr


def test_the_note_on_the_model_is_no_prelude_to_an_error(tmp_path: Path) -> None:
    gone = "/nowhere/a"
    for words in ((EN, "-t", "0"), (EN, "-o", gone), (gone,), (EN, "-l", gone)):
        done = transcribe(*words)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
        assert "digits only" not in done.stderr


def test_a_language_of_the_environment_is_named(tmp_path: Path) -> None:
    said = transcribe(EN, ASR_LANGUAGE="klingon").stderr
    assert said.startswith("asrswitch: ASR_LANGUAGE=klingon: unknown; ")
    said = transcribe(EN, "--language", "x").stderr
    assert said.startswith("asrswitch: --language x: unknown; ")


def test_an_output_in_which_nothing_came_is_not_left(tmp_path: Path) -> None:
    bad, out = tmp_path / "bad.wav", tmp_path / "out.txt"
    bad.write_bytes(b"no audio")
    assert transcribe(str(bad), "-m", "digits-small", "-o", str(out)).returncode == 1
    assert not out.exists()
    out.touch()
    assert transcribe(str(bad), "-m", "digits-small", "--output", str(out)).returncode == 1
    assert out.exists()


def test_stdin() -> None:
    done = piped(Path(ZH).read_bytes(), "-m", "digits-large", "-")
    assert (done.returncode, done.stdout, done.stderr) == (0, ZH_TEXT + "\n", "")
    empty = piped(b"", "-m", "digits-large", "-")
    assert (empty.returncode, empty.stdout, len(empty.stderr.splitlines())) == (1, "", 1)
    assert "empty" in empty.stderr


def test_json_is_a_line_a_file(tmp_path: Path) -> None:
    long = tmp_path / "long.flac"
    soundfile.write(long, spoken("phone-en", "phone-zh", pause_s=0.2), SAMPLE_RATE)
    words = ["-m", "digits=" + str(ROOT / "asrswitch" / "models" / "digits-large.bin"), "--max-chunk", "5"]
    done = transcribe(*words, "--json", EN, str(long), "-t", "2")
    assert done.returncode == 0
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert (first["file"], first["text"], first["language"]) == (EN, EN_TEXT, "English")
    assert (second["text"], second["language"]) == (EN_TEXT + ZH_TEXT, "English,Chinese")
    assert [chunk["text"] for chunk in second["chunks"]] == [EN_TEXT, ZH_TEXT]
    assert second["chunks"][0]["end_s"] == second["chunks"][1]["start_s"]
    assert second["timings"].keys() == {"load_ms", "ttft_ms", "inference_ms", "rtf", "tokens_per_s"}
    assert all(value > 0 for value in second["timings"].values())
    assert second["model"]["label"] == "digits" and second["model"]["bytes"] > 0
    assert second["threads"] == 2
    assert {"asrswitch", "libsndfile", "python"} <= second["versions"].keys()


def test_output_goes_to_a_file_and_what_was_done_stays(tmp_path: Path) -> None:
    out, bad = tmp_path / "texts.txt", tmp_path / "bad.wav"
    bad.write_bytes(b"no audio")
    done = transcribe("-m", "digits-large", EN, str(bad), "-o", str(out))
    assert (done.returncode, done.stdout) == (1, "")
    assert out.read_text(encoding="utf-8") == f"==> {EN} <==\n{EN_TEXT}\n"


def test_what_is_not_a_terminal_gets_repaired_text(
    fake_library: Path, script: Callable[..., str], clip: Path
) -> None:
    model = script("fake", text="so " * 40 + "yes", header="split")
    done = transcribe("-m", model, "--library", str(fake_library), str(clip))
    assert (done.returncode, done.stdout, done.stderr) == (0, "so yes\n", "")


def test_options_reach_the_engine(fake_library: Path, script: Callable[..., str], clip: Path) -> None:
    words = ["-m", script("fake", text="OPTIONS"), "--library", str(fake_library), str(clip)]
    words += ["--language", "zh", "-t", "3", "--context", "99", "--max-new-tokens", "7000"]
    assert all(
        option in transcribe(*words).stdout
        for option in ("[language][Chinese]", "[-n][3]", "[-l][99]", "[--max_new_tokens][7000]")
    )
    environ = {"ASR_LANGUAGE": "en", "INFERENCE_THREADS": "5", "CONTEXT_LENGTH": "77"}
    done = transcribe(*words[:5], **environ)
    assert all(option in done.stdout for option in ("[language][English]", "[-n][5]", "[-l][77]"))


def test_a_text_that_ends_at_the_limit_is_told(clip: Path) -> None:
    done = transcribe("-m", "digits-large", "--max-new-tokens", "5", EN)
    assert done.returncode == 0
    assert EN_TEXT.startswith(done.stdout.strip())
    assert len(done.stderr.splitlines()) == 1
    assert "5 tokens" in done.stderr and "--max-new-tokens" in done.stderr


def test_a_failure_in_the_engine_is_a_line_and_the_next_file_has_its_turn(
    fake_library: Path, script: Callable[..., str], clip: Path, tmp_path: Path
) -> None:
    model = script("fake", text="x", error="transcribe", once=tmp_path / "once")
    done = transcribe("-m", model, "--library", str(fake_library), str(clip), str(clip))
    assert (done.returncode, done.stdout) == (1, f"==> {clip} <==\nx\n")
    assert done.stderr == f"asrswitch: {clip}: told to fail\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "FILE"),
        ((EN, "--max-chunk", "0"), "--max-chunk"),
        ((EN, "--max-chunk", "nan"), "--max-chunk"),
        ((EN, "--max-chunk", "1201"), "--max-chunk"),
        ((EN, "--max-new-tokens", "0"), "--max-new-tokens"),
        ((EN, "-t", "0"), "--threads"),
        ((EN, "--context", "-1"), "--context"),
        ((EN, "--language", "Klingon"), "Klingon"),
        ((EN, "-m", "no-such-model"), "models list"),
        ((EN, "-m", "a=/nowhere.bin"), "/nowhere.bin"),
        ((EN, "-m", "=x"), "LABEL=PATH"),
        ((EN, "-m", "x" * 300), "no such file"),
        (("-", "-"), "twice"),
        ((EN, "-o", EN), "one of the files"),
        ((EN, "-o", "/nowhere/out.txt"), "/nowhere/out.txt"),
        ((EN, "--jso"), "--jso"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words: tuple[str, ...], says: str) -> None:
    done = transcribe(*words, *(() if "-m" in words else ("-m", "digits-small")))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert says in done.stderr
    assert Path(EN).stat().st_size > 0


def test_a_model_or_a_library_that_is_none_is_one_line(tmp_path: Path) -> None:
    text = tmp_path / "text.bin"
    text.write_text("neither")
    for words in (("-m", str(text)), ("-m", "digits-small", "--library", str(text))):
        done = transcribe(EN, *words)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
        assert str(text) in done.stderr


def test_help_fits_a_screen_and_shows_examples() -> None:
    done = transcribe("--help", COLUMNS="120")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) <= 40
    assert "asrswitch transcribe -m 0.6b.bin talk.mp3" in done.stdout


@pytest.mark.parametrize("words", [(EN,), (EN, ZH), ("--json", EN)])
def test_a_reader_that_goes_away_is_no_error(words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "-m", "digits-small", *words],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(("where", "says"), [(">/dev/full", "No space left"), (">&-", "Bad file descriptor")])
def test_an_output_that_cannot_be_written_is_one_line(where: str, says: str) -> None:
    done = subprocess.run(
        ["bash", "-c", f'exec "$@" {where}', "run", *COMMAND, "-m", "digits-small", EN, ZH],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert says in done.stderr and "-o FILE" in done.stderr


def test_a_terminal_sees_the_text_as_it_comes_and_ctrl_c_ends_it(tmp_path: Path, clip: Path) -> None:
    talkative = tmp_path / "tiny.bin"
    synthesise(talkative, "tiny", TensorType.Q4_0, seed=0)  # random weights find no end
    controller, terminal = os.openpty()
    process = subprocess.Popen(
        [*COMMAND, "-m", str(talkative), "--max-new-tokens", "10000000", str(clip)],
        cwd=ROOT,
        stdout=terminal,
        stderr=subprocess.PIPE,
    )
    os.close(terminal)
    seen = b""
    while len(seen) < 50:
        seen += os.read(controller, 1000)
    process.send_signal(signal.SIGINT)
    try:
        while True:
            seen += os.read(controller, 100_000)
    except OSError:  # the other end is closed
        os.close(controller)
    _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, b"asrswitch: stopped by SIGINT\n")
    assert seen.endswith(b"\r\n")


def on_a_terminal(*words: str) -> str:
    """What a terminal gets, with newlines as they were written."""
    controller, terminal = os.openpty()
    with os.fdopen(terminal, "w", encoding="utf-8") as output, contextlib.redirect_stdout(output):
        assert main(["transcribe", *words]) == 0
    seen = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while True:
            seen += os.read(controller, 10_000)
    os.close(controller)
    return seen.decode().replace("\r\n", "\n")


def test_control_characters_reach_files_and_pipes_and_no_terminal(
    fake_library: Path, script: Callable[..., str], clip: Path, tmp_path: Path
) -> None:
    # Red by ESC and by its one-character form, a bell, a return to the line's begin; a Persian joiner stays.
    text = "a\x1b[31mb\x9b31mc\x07d\re\x7f\u0645\u06cc\u200c\u062e\u3000零"
    escaped = "a\\u001b[31mb\\u009b31mc\\u0007d\\u000de\\u007f\u0645\u06cc\u200c\u062e\u3000零"
    words = ["-m", script("fake", text=text, pieces=1), "--library", str(fake_library), str(clip)]
    assert transcribe(*words).stdout == text + "\n"
    assert on_a_terminal(*words) == escaped + "\n"
    assert on_a_terminal(*words, str(clip)).count(escaped + "\n") == 2  # below headings of their own
    out = tmp_path / "out.txt"
    assert transcribe(*words, "-o", str(out)).returncode == 0
    assert out.read_bytes().decode() == text + "\n"


def test_json_is_plain_on_a_terminal_too(fake_library: Path, script: Callable[..., str], clip: Path) -> None:
    text = 'a\x1b[31m"b"\\\x9b31mc\x7f零'
    words = ["-m", script("fake", text=text), "--library", str(fake_library), "--json", str(clip)]
    for output in (transcribe(*words).stdout, on_a_terminal(*words)):
        assert json.loads(output)["text"] == text
        assert output.count("\n") == 1
    assert on_a_terminal(*words).rstrip("\n").isprintable()


MEMORY = """
import re, sys, asrswitch
with asrswitch.load(sys.argv[1], library=sys.argv[2]) as model:
    result = model.transcribe(sys.argv[3])
print(result.audio_s, re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


def test_a_long_file_takes_no_more_memory_than_a_short_one(
    fake_library: Path, script: Callable[..., str], tmp_path: Path
) -> None:
    model = script("fake", text="x").partition("=")[2]
    minute = np.resize(spoken("phone-en", "long-en"), 60 * SAMPLE_RATE)
    peaks = []
    for minutes in (2, 20):
        path = tmp_path / f"{minutes}.wav"
        soundfile.write(path, np.tile(minute, minutes), SAMPLE_RATE, subtype="PCM_16")
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, model, fake_library, path],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        seconds, peak = done.stdout.split()
        assert float(seconds) == 60 * minutes
        peaks.append(int(peak))
    assert peaks[1] - peaks[0] < 8 << 10  # KiB; the longer one has 66 MiB more of samples
