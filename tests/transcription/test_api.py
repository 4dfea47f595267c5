"""``asrswitch.load`` and what it gives."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

import asrswitch
from asrswitch.audio import SAMPLE_RATE
from asrswitch.convert.quantise import TensorType
from asrswitch.convert.synth import synthesise
from asrswitch.errors import AsrSwitchError, AudioError, LibraryError, UsageError
from asrswitch.text import normalise
from asrswitch.transcription.engine import EngineError
from support import ROOT, wait_for
from transcription.speech import SAMPLES, spoken, written

FakeModel = Callable[..., asrswitch.Model]
THREAD = "asrswitch-transcribe"


def at_work() -> bool:
    return any(thread.name == THREAD for thread in threading.enumerate())


@pytest.mark.parametrize("name", ["phone-zh", "phone-en", "long-zh", "long-en"])
@pytest.mark.parametrize("label", ["digits-small", "digits-large"])
def test_samples_are_transcribed(name: str, label: str) -> None:
    with asrswitch.load(label, threads=2) as model:
        result = model.transcribe(SAMPLES / f"{name}.wav")
    assert normalise(result.text) == normalise(written(name))
    assert result.language == {"zh": "Chinese", "en": "English"}[name[-2:]]
    assert result.raw == f"language {result.language}<asr_text>{result.text}"
    assert result.audio_s == pytest.approx(soundfile.info(SAMPLES / f"{name}.wav").duration)
    assert result.tokens > 5 and result.prompt_tokens and result.prompt_tokens > 20
    timings = result.timings
    assert timings.load_ms > 0 and timings.tokens_per_s and timings.tokens_per_s > 0
    assert timings.ttft_ms and 0 < timings.ttft_ms <= timings.inference_ms
    assert timings.rtf == pytest.approx(timings.inference_ms / 1e3 / result.audio_s)


# As much at a time as the embedded models were trained on: they know no more than 16 digits in a row.
@pytest.mark.parametrize(
    ("label", "names", "max_chunk"),
    [
        *(("digits-large", ("phone-en",) * 3, limit) for limit in (4, 5, 6, 7)),
        *(("digits-large", ("phone-zh",) * 3, limit) for limit in (4, 5, 6, 7)),
        *(("digits-large", ("phone-zh", "phone-en") * 2, limit) for limit in (4, 5, 6, 7)),
        ("digits-large", ("phone-en", "long-en", "phone-en"), 4),
        ("digits-large", ("phone-zh", "phone-en", "long-zh", "long-en"), 4),
        *(("digits-small", ("phone-en",) * 3, limit) for limit in (5, 6, 7)),
    ],
)
def test_long_audio_gives_the_texts_of_its_parts(
    label: str, names: tuple[str, ...], max_chunk: float
) -> None:
    audio = spoken(*names, pause_s=0.2)
    with asrswitch.load(label, threads=2) as model:
        result = model.transcribe(audio, rate=SAMPLE_RATE, max_chunk=max_chunk)
    assert normalise(result.text) == normalise(written(*names))
    assert len(result.chunks) >= len(audio) / SAMPLE_RATE / max_chunk
    edges = [chunk.start_s for chunk in result.chunks] + [result.chunks[-1].end_s]
    assert [chunk.end_s for chunk in result.chunks] == edges[1:]
    assert (edges[0], edges[-1]) == (0, len(audio) / SAMPLE_RATE)
    assert all(chunk.end_s - chunk.start_s <= max_chunk for chunk in result.chunks)
    assert result.tokens == sum(chunk.figures.tokens or 0 for chunk in result.chunks)
    assert result.language == ",".join(
        name for name, _ in itertools.groupby({"zh": "Chinese", "en": "English"}[n[-2:]] for n in names)
    )


def test_ten_minutes_of_a_file_give_all_their_numbers(tmp_path: Path, digits: asrswitch.Model) -> None:
    names = ("phone-en",) * 150
    path = tmp_path / "long.flac"
    soundfile.write(path, spoken(*names, pause_s=0.2), SAMPLE_RATE)
    stream = digits.transcribe(path, max_chunk=5, stream=True)
    assert "".join(stream) == written(*names)
    assert len(stream.result.chunks) == len(names)


def test_a_stream_gives_the_text_in_pieces(digits: asrswitch.Model) -> None:
    names = ("phone-en", "phone-zh", "phone-en")
    audio = spoken(*names)
    stream = digits.transcribe(audio, rate=SAMPLE_RATE, max_chunk=5, stream=True)
    with pytest.raises(UsageError, match="take all its pieces"):
        _ = stream.result
    pieces = list(stream)
    assert len(pieces) > 10
    assert "".join(pieces) == stream.result.text == stream.text
    whole = digits.transcribe(audio, rate=SAMPLE_RATE, max_chunk=5)
    assert whole.text == stream.result.text
    assert list(stream) == []
    stream.close()
    assert stream.result.text == whole.text


def test_every_kind_of_source_gives_the_same_text(digits: asrswitch.Model) -> None:
    path = SAMPLES / "phone-en.wav"
    expected = digits.transcribe(path).text
    samples, rate = soundfile.read(path, dtype="int16")
    assert digits.transcribe(str(path)).text == expected
    assert digits.transcribe(path.read_bytes()).text == expected
    assert digits.transcribe(samples, rate=rate).text == expected
    with path.open("rb") as file:
        assert digits.transcribe(file).text == expected


def test_pieces_come_while_the_engine_goes_on(fake: FakeModel, clip: Path) -> None:
    model = fake(text="abcdef", pieces=1, delay_ms=50)
    stream = model.transcribe(clip, stream=True)
    assert next(stream) == "a"
    assert at_work()  # and this thread runs beside it: the library's calls let others run
    assert "".join(stream) == "bcdef"
    assert not at_work()


def test_characters_that_come_in_parts_are_put_together(fake: FakeModel, clip: Path) -> None:
    stream = fake(header="split", text="零一二", pieces=1).transcribe(clip, stream=True)
    assert list(stream) == ["零", "一", "二"]
    assert stream.result.language == "Chinese"


def test_a_loop_is_repaired_after_the_stream_has_shown_it(fake: FakeModel, clip: Path) -> None:
    stream = fake(text="so " * 40 + "yes").transcribe(clip, stream=True)
    assert "".join(stream) == "so " * 40 + "yes"
    assert stream.result.text == "so yes"
    assert stream.result.raw == "so " * 40 + "yes"


def test_nothing_begins_before_the_first_piece_is_asked_for(fake: FakeModel, clip: Path) -> None:
    model = fake(text="abc", pieces=1, delay_ms=50)
    stream = model.transcribe(clip, stream=True)
    assert not at_work()
    stream.close()
    assert list(stream) == []
    with pytest.raises(UsageError):
        _ = stream.result


@pytest.mark.parametrize("language", ["zh", "chinese", "Chinese"])
def test_a_forced_language_is_passed_on(
    language: str, fake_library: Path, tmp_path: Path, clip: Path
) -> None:
    path = tmp_path / "fake.bin"
    path.write_text("text=OPTIONS")
    with asrswitch.load(
        path, language=language, threads=3, context=99, max_new_tokens=7, library=fake_library
    ) as model:
        result = model.transcribe(clip)
    assert "[--set][language][Chinese]" in result.text
    for words in ("[-n][3]", "[-l][99]", "[--max_new_tokens][7]", f"[-m][{path}]"):
        assert words in result.text
    assert result.language == "Chinese"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"threads": 0}, "threads is 0"),
        ({"context": 0}, "context is 0"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"language": "Klingon"}, "Klingon: unknown"),
        ({"library": "/nowhere/lib.so"}, "/nowhere/lib.so"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, object], says: str) -> None:
    with pytest.raises(AsrSwitchError, match=says):
        asrswitch.load("digits-small", **arguments)  # type: ignore[arg-type]


def test_models_and_libraries_that_are_none_are_named(tmp_path: Path) -> None:
    text = tmp_path / "text.bin"
    text.write_text("no model")
    for word in ("/nowhere/a.bin", str(tmp_path), "x" * 300, "no-such-model"):
        with pytest.raises(UsageError) as caught:
            asrswitch.load(word)
        assert word in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(EngineError, match=str(text)):
        asrswitch.load(text)
    with pytest.raises(LibraryError, match=str(text)):
        asrswitch.load("digits-small", library=text)


@pytest.mark.parametrize("max_chunk", [0, 0.5, 1201, float("nan")])
def test_a_chunk_limit_out_of_range_is_refused(max_chunk: float, digits: asrswitch.Model, clip: Path) -> None:
    with pytest.raises(UsageError, match="max_chunk"):
        digits.transcribe(clip, max_chunk=max_chunk)


@pytest.mark.parametrize("stream", [False, True])
def test_failures_name_the_source(stream: bool, fake: FakeModel, clip: Path) -> None:
    model = fake(error="transcribe")
    with pytest.raises(EngineError, match=f"{clip}: told to fail"):
        list(model.transcribe(clip, stream=True)) if stream else model.transcribe(clip)
    assert not at_work()
    with pytest.raises(AudioError, match="/nowhere"):
        list(model.transcribe("/nowhere/a.wav", stream=True))
    with pytest.raises(EngineError, match="failed and returned 0"):
        fake(stderr_error=1).transcribe(clip)
    with pytest.raises(EngineError, match="told to fail"):
        fake(error="load")


def test_a_chunk_that_does_not_fit_says_which() -> None:
    first, second = spoken("phone-en"), spoken("long-en")
    pause = np.zeros(3_200, np.float32)
    # The pause is the only silence that is to be found before the limit; what follows it has 8 s again.
    audio = np.concatenate([first, pause, second + np.float32(0.1)])
    with asrswitch.load("digits-small", context=80) as model:
        assert model.transcribe(first, rate=SAMPLE_RATE).text
        with pytest.raises(EngineError, match=r"^array: .* the context"):
            model.transcribe(second, rate=SAMPLE_RATE)
        with pytest.raises(EngineError, match=r"^array, from 4\.. s: .* context"):
            model.transcribe(audio, rate=SAMPLE_RATE, max_chunk=8)


def test_bad_samples_after_good_ones_end_a_stream_with_an_error(digits: asrswitch.Model) -> None:
    audio = np.concatenate([spoken("phone-en"), np.full(16_000 * 5, np.nan, np.float32)])
    stream = digits.transcribe(audio, rate=SAMPLE_RATE, max_chunk=2, stream=True)
    with pytest.raises(AudioError, match="not finite"):
        list(stream)


def test_a_text_as_long_as_it_may_be_is_marked(digits: asrswitch.Model) -> None:
    path = SAMPLES / "phone-en.wav"
    assert not digits.transcribe(path).chunks[0].cut_off
    with asrswitch.load("digits-large", max_new_tokens=5) as model:
        result = model.transcribe(path)
    assert result.chunks[0].cut_off and result.tokens == 5


def test_a_failed_unload_is_an_error_once(fake: FakeModel) -> None:
    model = fake(error="unload")
    with pytest.raises(EngineError, match="told to fail"):
        model.close()
    model.close()


def test_close_twice_and_use_after_close(clip: Path) -> None:
    model = asrswitch.load("digits-small")
    stream = model.transcribe(clip, stream=True)
    model.close()
    model.close()
    for use in (lambda: model.transcribe(clip), lambda: list(stream)):
        with pytest.raises(UsageError, match="closed"):
            use()


def test_threads_take_turns(clip: Path, fake: FakeModel) -> None:
    model = fake(text="abc", pieces=1, delay_ms=10)
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(model.transcribe(clip).text)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == ["abc"] * 4


def test_a_stream_that_nobody_goes_on_with_does_not_block_the_next(clip: Path, fake: FakeModel) -> None:
    model = fake(text="abc", pieces=1, delay_ms=10)
    stream = model.transcribe(clip, stream=True)
    next(stream)
    assert model.transcribe(clip).text == "abc"
    assert list(stream) == ["b", "c"]


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights, which finds no end."""
    path = tmp_path_factory.mktemp("talkative") / "tiny.bin"
    synthesise(path, "tiny", TensorType.Q4_0, seed=0)
    return path


@pytest.mark.parametrize("way", ["close the stream", "close the model"])
@pytest.mark.parametrize("after_s", [0.0, 0.02, 0.3])
def test_an_end_before_the_end(way: str, after_s: float, talkative: Path, clip: Path) -> None:
    model = asrswitch.load(talkative, max_new_tokens=100_000, threads=2)
    with model:
        stream = model.transcribe(clip, stream=True)
        next(stream)
        time.sleep(after_s)
        assert at_work()
        stream.close() if way == "close the stream" else model.close()
        assert not at_work()
        if way == "close the stream":
            assert list(stream) == []
            again = model.transcribe(clip, stream=True)
            assert next(again)
            again.close()
        else:
            with pytest.raises(UsageError, match="closed"):
                list(stream)


def test_a_stream_can_be_closed_while_another_thread_waits_for_it(talkative: Path, clip: Path) -> None:
    with asrswitch.load(talkative, max_new_tokens=100_000, threads=2) as model:
        stream = model.transcribe(clip, stream=True)
        pieces: list[str] = []
        taker = threading.Thread(target=lambda: pieces.extend(stream))
        taker.start()
        wait_for(at_work)
        stream.close()
        taker.join()
        assert not at_work()
        assert list(stream) == []


def test_a_stream_that_is_dropped_ends(talkative: Path, clip: Path) -> None:
    with asrswitch.load(talkative, max_new_tokens=100_000, threads=2) as model:
        for _ in model.transcribe(clip, stream=True):
            break
        gc.collect()
        assert not at_work()


def test_one_that_waits_for_its_turn_can_be_ended(talkative: Path, clip: Path) -> None:
    with asrswitch.load(talkative, max_new_tokens=100_000, threads=2) as model:
        first = model.transcribe(clip, stream=True)
        next(first)
        failures: list[BaseException] = []

        def wait() -> None:
            try:
                model.transcribe(clip)
            except UsageError as error:
                failures.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        wait_for(lambda: sum(thread.name == THREAD for thread in threading.enumerate()) == 2)
        model.close()
        waiting.join()
        assert len(failures) == 1
        assert not at_work()


ENDING = """
import sys, asrswitch
model = asrswitch.load(sys.argv[1], max_new_tokens=10_000_000)
stream = model.transcribe(sys.argv[2], stream=True)
print(bool(next(stream)))
"""


def test_a_program_that_ends_does_not_wait_for_the_transcription(talkative: Path, clip: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDING, str(talkative), str(clip)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")


LEAN = """
import sys, asrswitch
heavy = {"numpy", "cffi", "msgspec", "soundfile"} & set(sys.modules)
assert not heavy, heavy
assert {"load", "Model", "__version__"} <= set(dir(asrswitch))
try:
    asrswitch.nothing
except AttributeError as error:
    assert "nothing" in str(error)
else:
    raise AssertionError
from asrswitch import load, Result
assert callable(load) and Result.__name__ == "Result"
"""


def test_importing_the_package_imports_nothing_else() -> None:
    subprocess.run([sys.executable, "-c", LEAN], cwd=ROOT, check=True)
