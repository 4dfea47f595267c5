"""Bad model files and bad clips: each is one clear line and the right exit code, and takes little memory."""

from __future__ import annotations

import itertools
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from asrswitch import native
from asrswitch.cli import main
from asrswitch.errors import AsrSwitchError
from asrswitch.model_file import read_model_file
from asrswitch.native.locate import find_library
from helpers.bad_models import BadFile, SoundFile, bad_models, sound_file
from support import ROOT, without_progress

MIB = 1 << 20
RATE = 16_000


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[SoundFile, Path]:
    """A sound model: where its fields lie, and its path."""
    folder = tmp_path_factory.mktemp("sound")
    return sound_file(folder), folder / "sound.bin"


@pytest.fixture(scope="module")
def models(
    sound: tuple[SoundFile, Path], tmp_path_factory: pytest.TempPathFactory
) -> list[tuple[BadFile, Path]]:
    """Every bad model, with its path."""
    return make(bad_models(sound[0]), tmp_path_factory.mktemp("models"), ".bin")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[BadFile, Path]]:
    """Every bad clip, with its path."""
    return make(BAD_CLIPS, tmp_path_factory.mktemp("clips"), ".wav")


def make(files: Sequence[BadFile], folder: Path, suffix: str) -> list[tuple[BadFile, Path]]:
    assert len({file.name for file in files}) == len(files)
    made = []
    for index, file in enumerate(files):
        path = folder / f"{index}{suffix}"
        file.make(path)
        made.append((file, path))
    return made


def chunk(tag: bytes, content: bytes) -> bytes:
    return tag + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def wav(data: bytes, encoding: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16) -> bytes:
    width = channels * bits // 8
    fmt = struct.pack("<HHIIHH", encoding, channels, rate, rate * width, width, bits)
    content = b"WAVE" + chunk(b"fmt ", fmt) + chunk(b"data", data)
    return b"RIFF" + struct.pack("<I", len(content)) + content


def clip(name: str, content: bytes, *says: str) -> BadFile:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return BadFile(name, write, says)


NAN, INFINITY = struct.pack("<f", float("nan")), struct.pack("<f", float("inf"))
SILENCE = bytes(2 * RATE)
# What the engine says of them. Those that another program could decode never reach it from the command line.
BAD_CLIPS = [
    BadFile("missing", lambda path: None, ("cannot open", "No such file")),
    BadFile("a directory", lambda path: path.mkdir(), ("is not a regular file",)),
    BadFile("empty", lambda path: path.touch(), ("is empty",)),
    clip("text", b"hello, this is speech\n" * 100, "header at offset 0"),
    clip("random bytes", bytes(range(256)) * 20, "header at offset 0"),
    clip("cut in the header", wav(SILENCE)[:20], "fmt chunk"),
    clip("cut before the samples", wav(SILENCE)[:36], "data chunk"),
    clip("without samples", wav(b""), "data chunk"),
    clip("with half a sample", wav(b"\1"), "data chunk", "holds no sample"),
    clip(
        "not a number", wav(bytes(4000) + NAN + bytes(4000), 3, bits=32), "sample 1000", "not a finite number"
    ),
    clip("infinite", wav(bytes(4000) + INFINITY, 3, bits=32), "sample 1000", "not a finite number"),
    clip("without a rate", wav(SILENCE, rate=0), "sample rate", "is 0 Hz"),
    clip("without channels", wav(SILENCE, channels=0), "number of channels", "is 0"),
    clip("of an unknown encoding", wav(SILENCE, encoding=0x1234), "sample format", "encoding 4660"),
    clip("of floats of 8 bits", wav(SILENCE, encoding=3, bits=8), "sample format", "encoding 3 with 8 bits"),
    clip("with a chunk of 4 GiB", b"RIFF\xff\xff\xff\xffWAVEfmt \xf0\xff\xff\xff" + bytes(100), "fmt chunk"),
]


def try_each(cases: Sequence[tuple[Path, Path | None]]) -> list[dict[str, Any]]:
    """What the engine made of each model and clip, through the C interface."""
    program = ROOT / "tests" / "helpers" / "try_each.py"
    words = "".join(json.dumps([str(model), clip and str(clip)]) + "\n" for model, clip in cases)
    done = subprocess.run(
        [sys.executable, "-S", program, find_library(None, os.environ)],
        input=words,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    answers: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(cases)
    return answers


def faults(answer: dict[str, Any], status: str, path: Path, says: Sequence[str]) -> list[str]:
    """What is wrong with the engine's answer to a bad file, in words."""
    if answer["signal"] is not None:
        return [f"ended by signal {answer['signal']}"]
    found = []
    if answer[status] == 0:
        found.append("was taken for sound")
    if answer["destroy"] != 0:
        found.append("could not be destroyed")
    if len(answer["errors"]) != 1:
        return [*found, f"{len(answer['errors'])} error lines"]
    (line,) = answer["errors"]
    if not line.startswith(f"{path}: ") or not line.isprintable() or len(line) > 600:
        found.append(f"no clear line that begins with the file's name: {line!r}")
    found += [f"nothing of {words!r} in {line!r}" for words in says if words not in line]
    return found


def test_every_bad_model_is_one_line(models: list[tuple[BadFile, Path]]) -> None:
    assert len(models) > 100
    problems = []
    answers = try_each([(path, None) for _, path in models])
    for (file, path), answer in zip(models, answers, strict=True):
        problems += [f"{file.name}: {fault}" for fault in faults(answer, "start", path, file.says)]
    assert not problems, "\n".join(problems)


def test_a_bad_model_takes_no_memory_to_speak_of(models: list[tuple[BadFile, Path]]) -> None:
    """At most the file's mapping, as much again, and 16 MiB of address space; of that, less is touched."""
    problems = []
    for (file, path), answer in zip(models, try_each([(path, None) for _, path in models]), strict=True):
        size = path.stat().st_size if path.is_file() else 0
        if answer["resident_growth"] > size + 16 * MIB or answer["address_growth"] > 2 * size + 16 * MIB:
            problems.append(
                f"{file.name}: {answer['resident_growth']:,} and {answer['address_growth']:,} bytes"
            )
    assert not problems, "\n".join(problems)


def test_the_sound_model_is_sound(sound: tuple[SoundFile, Path], clip: Path) -> None:
    """Else every refusal above would prove nothing."""
    (answer,) = try_each([(sound[1], clip)])
    assert answer["errors"] == []
    assert (answer["start"], answer["input"], answer["destroy"], answer["signal"]) == (0, 0, 0, None)


def test_every_bad_clip_is_one_line(sound: tuple[SoundFile, Path], clips: list[tuple[BadFile, Path]]) -> None:
    problems = []
    answers = try_each([(sound[1], path) for _, path in clips])
    for (file, path), answer in zip(clips, answers, strict=True):
        problems += [f"{file.name}: {fault}" for fault in faults(answer, "input", path, file.says)]
    assert not problems, "\n".join(problems)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files_are_one_line(sound: tuple[SoundFile, Path], tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(0)
    as_model, as_clip = try_each([(secret, None), (sound[1], secret)])
    assert not faults(as_model, "start", secret, ["Permission denied"])
    assert not faults(as_clip, "input", secret, ["Permission denied"])


@pytest.fixture
def asrswitch(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command in a process of its own, one iteration."""
    numbers = itertools.count()

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        out = tmp_path / f"out-{next(numbers)}"
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "asrswitch",
                "--iters",
                "1",
                "--allow-concurrent",
                "--out",
                out,
                *map(str, words),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def is_refused(path: Path) -> bool:
    """Whether a file is refused when its headers are read, before there is any worker."""
    try:
        read_model_file(path)
    except AsrSwitchError:
        return True
    return False


def test_bad_models_are_wrong_usage_before_anything_begins(
    models: list[tuple[BadFile, Path]], clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = [(file.name, path) for file, path in models if path.is_file() and is_refused(path)]
    assert len(refused) > 60
    for name, path in refused:
        assert main(["--iters", "1", "--dry-run", "--model", f"x={path}", "--audio", str(clip)]) == 2, name
        printed = capsys.readouterr()
        (line,) = printed.err.splitlines()
        assert printed.out == "" and line.startswith(f"asrswitch: {path}: "), name
        assert line.count("; ") == 1, name  # what is wrong, and what to do about it


def test_what_another_library_cannot_load_it_says_itself(
    fake_library: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "theirs.bin").write_text("text=x\n")
    words = ["--iters", "1", "--dry-run", "--model", str(tmp_path / "theirs.bin"), "--audio", str(clip)]
    assert main([*words, "--library", str(fake_library)]) == 0
    assert main(words) == 2
    assert "this is no chatllm.cpp model file; " in capsys.readouterr().err


def test_a_dry_run_sees_that_there_is_no_library(
    sound: tuple[SoundFile, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--iters", "1", "--dry-run", "--model", str(sound[1]), "--library", str(tmp_path / "no.so")]
    assert main(words) != 0
    printed = capsys.readouterr()
    assert printed.out == "" and "there is no such library; check --library" in printed.err


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (
            "/m.bin: tensor a at offset 7: is of type 9",
            "; copy it again, or make it anew by `models convert`",
        ),
        ("/m.bin: is empty", "; copy it again, or make it anew by `models convert`"),
        ("/m.bin: tensor lm_head.weight is missing", "; copy it again, or make it anew by `models convert`"),
        ("/m.bin: cannot open: Permission denied", "; check its permissions"),
        ("/m.bin: magic at offset 0: is 'a', not 'ggmm': not a chatllm.cpp model file (make one)", ""),
        ("/m.bin: model type at offset 9: is 1, not Qwen3-ASR (2): this engine runs no other model", ""),
        ("out of memory: 9 bytes for the KV cache (context 9): free memory, or shorten it", ""),
        ("/m.bin: cannot map 9 bytes: Cannot allocate memory", ""),
        ("told to fail", ""),
    ],
)
def test_what_the_engine_says_of_a_bad_file_gets_its_remedy_once(words: str, remedy: str) -> None:
    messages = [(native.PRINT_ERROR, words)]
    assert native.complaint(messages, "chatllm_start", 1) == words + remedy
    assert native.complaint(messages, "chatllm_user_input", 1) == words


@pytest.mark.slow
def test_bad_models_from_the_command_line(
    asrswitch: Callable[..., subprocess.CompletedProcess[str]], models: list[tuple[BadFile, Path]], clip: Path
) -> None:
    """A third of those that the engine alone refuses: each is reported twice, and none ends the run."""
    theirs = [i for i, (_, path) in enumerate(models) if path.is_file() and not is_refused(path)]
    readable = [(index, models[index][1]) for index in theirs][::3]
    assert len(readable) > 5
    words = [f"--model={index}={path}" for index, path in readable]
    done = asrswitch(*words, "--audio", clip)
    assert done.returncode == 1, done.stderr
    (line,) = without_progress(done.stderr).splitlines()
    assert (
        f"{len(readable)} failures; the first: iteration 1, {readable[0][0]}, load: {readable[0][1]}: "
        in line
    )
    for index, path in readable:
        for attempt in ("", ", second attempt"):
            said = f"iteration 1/1 {index}{attempt}: load failed: {path}: "
            assert done.stderr.count(said) == 1, models[index][0].name


def test_models_that_are_no_files_are_wrong_usage(
    asrswitch: Callable[..., subprocess.CompletedProcess[str]], models: list[tuple[BadFile, Path]], clip: Path
) -> None:
    for file, path in models:
        if not path.is_file():
            done = asrswitch("--model", f"x={path}", "--audio", clip)
            assert (done.returncode, done.stdout) == (2, ""), file.name
            (line,) = done.stderr.splitlines()
            assert str(path) in line


@pytest.mark.slow
def test_bad_clips_from_the_command_line(
    asrswitch: Callable[..., subprocess.CompletedProcess[str]],
    sound: tuple[SoundFile, Path],
    clips: list[tuple[BadFile, Path]],
) -> None:
    for file, path in clips:
        done = asrswitch("--model", f"x={sound[1]}", "--audio", path)
        assert done.returncode == (1 if path.is_file() else 2), file.name
        (line,) = done.stderr.splitlines()
        assert str(path) in line, file.name


def test_a_clip_too_long_for_the_context(
    asrswitch: Callable[..., subprocess.CompletedProcess[str]], sound: tuple[SoundFile, Path], tmp_path: Path
) -> None:
    path = tmp_path / "long.wav"
    path.write_bytes(wav(SILENCE * 30))
    done = asrswitch("--model", f"x={sound[1]}", "--audio", path, "--context", 64)
    assert done.returncode == 1, done.stderr
    assert f"failed: x, transcribe: {path}: " in done.stdout
    (line,) = without_progress(done.stderr).splitlines()
    assert str(path) in line
    assert line.endswith(
        "more than the 5 s that fit into the context: cut the clip or raise the context (-c)"
    )
