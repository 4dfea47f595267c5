"""Reading model files that nobody vouches for, and what `models show` says of them."""

from __future__ import annotations

import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import asrswitch
from asrswitch.convert import TYPES, convert
from asrswitch.convert.synth import synthesise
from asrswitch.errors import AsrSwitchError
from asrswitch.model_facts import Synthetic, describe, model_facts
from asrswitch.model_file import ANEW, is_synthetic, read_model_file
from helpers.bad_models import bad_models, sound_file
from helpers.checkpoint import ADDED_TOKENS, Sizes, write_checkpoint
from helpers.container import read_container
from support import ROOT

EMBEDDED = sorted((Path(asrswitch.__file__).parent / "models").glob("*.bin"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "tiny.bin"
    synthesise(path, "tiny", TYPES["q4_0"], 7)
    return path


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "scratch.bin"


def test_the_facts_are_those_of_the_file(tiny: Path) -> None:
    facts, container = model_facts(tiny), read_container(tiny)
    assert (facts.name, facts.synthetic) == ("Qwen3-ASR tiny (synthetic weights)", Synthetic("tiny", 7))
    assert facts.file_bytes == tiny.stat().st_size == sum(part.bytes for part in facts.parts)
    assert facts.tensors == len(container.tensors) == sum(count.tensors for count in facts.types)
    assert facts.parameters == sum(tensor.values().size for tensor in container.tensors.values())
    assert facts.parameters == sum(count.parameters for count in facts.types)
    assert [count.type for count in facts.types] == ["q4_0", "f16", "f32"]
    assert (facts.encoder.layers, facts.encoder.width, facts.encoder.conv_channels) == (3, 128, 32)
    assert (facts.decoder.layers, facts.decoder.width, facts.decoder.head_width) == (3, 128, 64)
    assert (facts.tokenizer.normal_tokens, facts.tokenizer.added_tokens) == (4000, 62)
    assert facts.tokenizer.merges == len(container.merges)
    assert facts.tokenizer.special_ids["<asr_text>"] == 4000 + ADDED_TOKENS.index("<asr_text>")
    assert facts.stop_tokens == {"<|im_end|>": 4002, "<|endoftext|>": 4000}
    assert len(facts.languages) == 30


def test_what_this_engine_alone_reads_is_said(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "interleaved.bin"
    synthesise(path, "tiny", TYPES["q4_0_16x4"], 7)
    facts = model_facts(path)
    assert [(count.type, count.this_engine_only) for count in facts.types] == [
        ("q4_0_16x4", True),
        ("q4_0", False),
        ("f16", False),
        ("f32", False),
    ]
    sections = dict(describe(facts))
    assert dict(sections["types"])["q4_0_16x4"].endswith(" MiB")
    assert "this engine only, because of q4_0_16x4" in dict(sections[str(path)])["readers"]
    assert (facts.parameters, facts.parts) == (model_facts(tiny).parameters, model_facts(tiny).parts)
    assert not any(count.this_engine_only for count in model_facts(tiny).types)
    assert "readers" not in dict(dict(describe(model_facts(tiny)))[str(tiny)])


@pytest.mark.parametrize(
    ("shape", "refused"),
    [((16, 32), False), ((64, 96), False), ((24, 32), True), ((32,), True), ((16, 1, 32), True)],
    ids=str,
)
def test_rows_that_cannot_be_stored_together_are_refused(
    tiny: Path, tmp_path: Path, shape: tuple[int, ...], refused: bool
) -> None:
    """One tensor of q4_0_16x4 behind the head of a sound file."""
    head = read_container(tiny).head
    name = b"extra.weight"
    record = struct.pack("<i", len(name)) + name + struct.pack("<i", len(shape))
    record += struct.pack(f"<{len(shape) + 1}i", *shape, 258)
    type_at = len(head) + len(record) - 4
    record += bytes(-(len(head) + len(record)) % 16)
    path = tmp_path / "extra.bin"
    path.write_bytes(head + record + bytes(math.prod(shape) // 32 * 18))
    if not refused:
        (tensor,) = read_model_file(path).tensors
        assert (tensor.type.name, tensor.shape) == ("q4_0_16x4", shape)
        return
    assert facts_or_one_line(path) == (
        f"{path}: tensor extra.weight type at offset {type_at}: is q4_0_16x4 with 16 rows stored together, "
        f"but the shape is {list(shape)}; {ANEW}"
    )


def test_each_part_holds_its_tensors(tiny: Path) -> None:
    container = read_container(tiny)

    def held(*starts: str) -> int:
        return sum(len(t.data) for name, t in container.tensors.items() if name.startswith(starts))

    parts = {part.name: part.bytes for part in model_facts(tiny).parts}
    model_type, vocabulary, tensors = struct.unpack_from("<3I", container.head, 8)
    assert parts == {
        "embedding": held("model.embed_tokens."),
        "decoder layers": held("model.layers.", "model.norm."),
        "output matrix": held("lm_head."),
        "convolutions": held("audio.conv2d", "audio.conv_out."),
        "encoder layers": held("audio.layers.", "audio.ln_post."),
        "projector": held("multi_modal_projector."),
        "vocabulary": tensors - vocabulary,
        "metadata": vocabulary,
        "tensor headers": parts["tensor headers"],
    }
    assert model_type < vocabulary
    assert all(parts.values())


@pytest.mark.parametrize("path", EMBEDDED, ids=lambda path: path.stem)
def test_a_trained_model_is_not_marked_as_synthetic(path: Path) -> None:
    facts = model_facts(path)
    assert facts.synthetic is None
    assert not is_synthetic(path)
    assert "not marked as synthetic" in dict(describe(facts)[0][1])["weights"]


def test_added_tokens_in_the_vocabulary_count_once(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    write_checkpoint(folder, Sizes(), seed=3)
    vocabulary = json.loads((folder / "vocab.json").read_text())
    merges = (folder / "merges.txt").read_text().splitlines()[1:]
    added = [{"id": len(vocabulary) + i, "content": token} for i, token in enumerate(ADDED_TOKENS)]
    model = {"type": "BPE", "vocab": vocabulary, "merges": merges}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added}))
    convert(folder, tmp_path / "out.bin", "q8_0")
    tokenizer = model_facts(tmp_path / "out.bin").tokenizer
    assert (tokenizer.normal_tokens, tokenizer.added_tokens) == (len(vocabulary), len(ADDED_TOKENS))


def facts_or_one_line(path: Path) -> str | None:
    """Read a file in every way; the message if it is refused."""
    is_synthetic(path)
    try:
        facts = model_facts(path)
    except AsrSwitchError as error:
        message = str(error)
        assert message.startswith(f"{path}: ") and message.isprintable(), message
        assert message.count("; ") == 1, message  # what is wrong, and what to do about it
        return message
    assert sum(part.bytes for part in facts.parts) == facts.file_bytes
    assert all(value.isprintable() for _, lines in describe(facts) for line in lines for value in line)
    return None


def test_bad_files_are_one_line_or_the_engines_to_refuse(tmp_path: Path) -> None:
    refused = []
    files = bad_models(sound_file(tmp_path))
    for index, bad in enumerate(files):
        path = tmp_path / f"{index}.bin"
        bad.make(path)
        if facts_or_one_line(path) is not None:
            refused.append(bad.name)
    # Each cut is found, but for those that leave whole records.
    cuts = {bad.name for bad in files if bad.name.startswith("cut ")}
    assert cuts - set(refused) == {
        "cut before the tensors",
        "cut between two tensors",
        "cut before the last tensor",
    }
    assert len(refused) > 60


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_file_cut_anywhere_is_one_line(tiny: Path, scratch: Path, data: st.DataObject) -> None:
    whole = tiny.read_bytes()
    (tensors_at,) = struct.unpack_from("<I", whole, 16)
    length = data.draw(st.one_of(st.integers(0, tensors_at), st.integers(0, len(whole) - 1)))
    scratch.write_bytes(whole[:length])
    message = facts_or_one_line(scratch)
    assert message is not None or length >= tensors_at


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_bytes_give_facts_or_one_line(tiny: Path, scratch: Path, data: st.DataObject) -> None:
    whole = bytearray(tiny.read_bytes())
    model_at, vocabulary_at, tensors_at = struct.unpack_from("<3I", whole, 8)
    records = [max(0, tensor.offset - 80) for tensor in read_container(tiny).tensors.values()]
    places = st.one_of(
        st.integers(0, 20),
        st.integers(20, model_at - 1),
        st.integers(model_at, vocabulary_at + 100),
        st.integers(vocabulary_at, tensors_at),
        st.builds(int.__add__, st.sampled_from(records), st.integers(0, 80)),
    )
    for place in data.draw(st.lists(places, min_size=1, max_size=3)):
        whole[place] = data.draw(st.integers(0, 255))
    scratch.write_bytes(whole)
    facts_or_one_line(scratch)


def with_metadata(tiny: Path, path: Path, metadata: object) -> Path:
    """The file's header with other metadata; what follows them is moved by whole steps of the alignment."""
    whole = tiny.read_bytes()
    offsets = struct.unpack_from("<3I", whole, 8)
    text = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    text += bytes((offsets[0] - 20 - len(text)) % 16)
    shift = 20 + len(text) - offsets[0]
    path.write_bytes(
        whole[:8] + struct.pack("<3I", *(at + shift for at in offsets)) + text + whole[offsets[0] :]
    )
    return path


@pytest.mark.parametrize(
    ("mark", "marked"),
    [
        ({"preset": "tiny", "seed": 1}, Synthetic("tiny", 1)),
        (True, Synthetic(None, None)),
        ({"preset": 5, "seed": 10**30}, Synthetic(None, None)),
        ({"preset": "a\nb\ud800", "seed": -1}, Synthetic("a\\nb\\ud800", None)),
        (False, None),
        (None, None),
    ],
)
def test_what_a_file_may_say_of_its_weights(
    mark: object, marked: Synthetic | None, tiny: Path, tmp_path: Path
) -> None:
    metadata = read_container(tiny).metadata | {"synthetic": mark}
    path = with_metadata(tiny, tmp_path / "marked.bin", metadata)
    assert model_facts(path).synthetic == marked
    assert is_synthetic(path) == (marked is not None)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        (b'{"synthetic": ' + b"[" * 100_000, "nested too deep"),
        (b'{"synthetic": ' + b"9" * 10_000 + b"}", "not JSON"),
        (b'{"synthetic": "\xff"}', "not UTF-8 at its byte 15"),
        (b'["synthetic"]', "a JSON list"),
        (b"", "not JSON"),
        ({"synthetic": 1}, "config.json.thinker_config.audio_config is missing"),
    ],
)
def test_metadata_at_fault_are_one_line(metadata: object, says: str, tiny: Path, tmp_path: Path) -> None:
    path = with_metadata(tiny, tmp_path / "fault.bin", metadata)
    message = facts_or_one_line(path)
    assert message is not None
    assert f"{path}: metadata at offset 20: " in message and says in message


def test_what_is_no_model_file_is_not_marked_and_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.bin").write_text("text=abc\nsynthetic=1\n")
    (tmp_path / "empty.bin").touch()
    os.mkfifo(tmp_path / "pipe.bin")
    for name, says in (
        ("text.bin", "this is no chatllm.cpp model file; `models convert` makes one from a checkpoint"),
        ("empty.bin", "is empty; copy it again, or make it anew by `models convert`"),
        ("pipe.bin", "not a file; give the name of a model file"),
        ("missing.bin", "there is no such file"),
        (".", "not a file"),
    ):
        assert says in str(facts_or_one_line(tmp_path / name))


def test_a_file_that_may_not_be_read_is_told_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret.bin"
    path.touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    assert facts_or_one_line(path) == f"{path}: cannot be read: Permission denied; check its permissions"


def test_a_large_count_takes_no_memory(tiny: Path, tmp_path: Path) -> None:
    """A sparse file of 9 GiB whose records claim nearly all of it."""
    path = tmp_path / "sparse.bin"
    head = bytearray(tiny.read_bytes())
    (tensors_at,) = struct.unpack_from("<I", head, 16)
    del head[tensors_at:]
    name = b"model.norm.weight"
    head += struct.pack("<i", len(name)) + name + struct.pack("<3i", 1, 2**31 - 1, 0)
    path.write_bytes(head)
    os.truncate(path, 9 << 30)
    code = (
        "import resource, sys; from pathlib import Path; from asrswitch.model_file import read_model_file\n"
    )
    code += "limit = 400 << 20; resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))\n"
    code += "from asrswitch.errors import AsrSwitchError\n"
    code += "try: read_model_file(Path(sys.argv[1]))\nexcept AsrSwitchError as error: print(error)\n"
    done = subprocess.run(
        [sys.executable, "-c", code, path], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert "tensor name's length at offset" in done.stdout, done.stderr


def show(*words: str | Path, **environ: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "asrswitch", "models", "show", *map(str, words)]
    given = os.environ | {name: str(value) for name, value in environ.items()}
    return subprocess.run(
        command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_prints_text_json_or_one_line(tiny: Path, tmp_path: Path) -> None:
    done = show(tiny)
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "synthetic: preset tiny, seed 7; speed and memory are true, text is not",
        "<|im_end|> 4002",
    ):
        assert words in done.stdout
    facts = json.loads(show(tiny, "--json").stdout)
    assert facts["synthetic"] == {"preset": "tiny", "seed": 7}
    assert facts["tensors"] == len(read_model_file(tiny).tensors)
    done = show(tmp_path / "missing.bin")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert show().returncode == 2


@pytest.mark.slow
def test_the_command_predicts_the_memory_of_an_input(tiny: Path) -> None:
    done = show(tiny, "--threads", "1", "--context", "700")
    assert (done.returncode, done.stderr) == (0, "")
    _, _, section = done.stdout.partition("predicted memory\n")
    lines = [line.split() for line in section.splitlines()]
    assert " ".join(lines[0]) == ("for a clip of 11 s, 512 new tokens, 1 thread, a context of 700 tokens")
    assert " ".join(lines[1]).endswith(" MiB, file-backed and shared between processes")
    for words, says in (
        (("--clip", "30", "--context", "390"), "the clip alone takes 390 tokens: raise --context, or cut"),
        (("--clip", "1e9"), "the clip alone takes 13,000,000,000 tokens: cut the clip"),
    ):
        assert f"does not fit {says}" in " ".join(show(tiny, "--threads", "1", *words).stdout.split())
    fits = show(tiny, "--threads", "1", "--clip", "30", "--context", "420").stdout
    assert "predicted memory" in fits and "does not fit" not in fits

    def asked(*words: str) -> dict[str, Any]:
        done = show(tiny, "--json", *words)
        assert (done.returncode, done.stderr) == (0, "")
        prediction: dict[str, Any] = json.loads(done.stdout)["predicted_memory"]
        return prediction

    whole = asked("--threads", "1")
    assert whole["weights_bytes"] == tiny.stat().st_size
    assert whole["question"] == {"clip_s": 11, "context": None, "threads": 1, "max_new_tokens": 512}
    parts = [count for name, count in whole.items() if name.endswith("_bytes")][2:]
    assert len(parts) == 5 and max(parts) < whole["anonymous_bytes"] <= sum(parts)
    assert asked("--threads", "1", "--clip", "30")["clip_bytes"] > whole["clip_bytes"]
    assert asked("--threads", "1", "--context", "200")["kv_cache_bytes"] < whole["kv_cache_bytes"]
    assert asked("--threads", "1", "--max-new-tokens", "5000")["kv_cache_bytes"] > whole["kv_cache_bytes"]
    assert asked("--threads", "4")["loaded_bytes"] > whole["loaded_bytes"]


@pytest.mark.slow
def test_without_a_prediction_the_facts_are_shown_all_the_same(
    tiny: Path, fake_library: Path, tmp_path: Path
) -> None:
    no_library = tmp_path / "text.so"
    no_library.write_text("text")
    for library, says in (
        (fake_library, "this library does not predict its memory"),
        (no_library, "not a library with chatllm.cpp's C interface"),
        (tmp_path / "missing.so", "there is no such library"),
    ):
        done = show(tiny, ASRSWITCH_LIBRARY=library)
        assert (done.returncode, done.stderr) == (0, "")
        assert "longest context" in done.stdout
        last = done.stdout.splitlines()[-1]
        assert last.startswith("predicted memory: not known (") and says in last
        facts = json.loads(show(tiny, "--json", ASRSWITCH_LIBRARY=library).stdout)
        assert facts["tensors"] and says in facts["predicted_memory"]["reason"]


def test_a_library_that_dies_or_refuses_the_model_is_a_line(
    tiny: Path, fake_library: Path, tmp_path: Path
) -> None:
    (tmp_path / "die").touch()
    done = show(tiny, ASRSWITCH_LIBRARY=fake_library, FAKE_DIES=tmp_path / "die")
    assert (done.returncode, done.stderr) == (0, "")
    assert "was killed by SIGABRT" in done.stdout.splitlines()[-1]
    # Records cut off as wholes: the reading of facts allows it, the engine does not.
    cut = tmp_path / "cut.bin"
    (tensors_at,) = struct.unpack_from("<I", tiny.read_bytes(), 16)
    cut.write_bytes(tiny.read_bytes()[:tensors_at])
    done = show(cut)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"predicted memory: not known ({cut}: " in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("list_of", "length", "says"),
    [
        ("token", 0, "is 0, must be 1 to 1024"),
        ("token", 1025, "is 1025, must be 1 to 1024"),
        ("merge", 0, "is 0, must be 3 to 2049"),
        ("merge", 2050, "is 2050, must be 3 to 2049"),
    ],
)
def test_texts_of_impossible_lengths_are_refused_at_the_first(
    list_of: str, length: int, says: str, tiny: Path, tmp_path: Path
) -> None:
    """A file of such records alone could keep a reader busy for as long as it is large."""
    whole = bytearray(tiny.read_bytes())
    (at,) = struct.unpack_from("<I", whole, 12)
    if list_of == "merge":
        while (size := struct.unpack_from("<i", whole, at)[0]) >= 0:
            at += 4 + size + 1
        at += 4
    struct.pack_into("<i", whole, at, length)
    path = tmp_path / "lengths.bin"
    path.write_bytes(whole)
    assert facts_or_one_line(path) == f"{path}: {list_of}'s length at offset {at}: {says}; {ANEW}"


def test_a_vocabulary_ends_before_the_tensors(tiny: Path, tmp_path: Path) -> None:
    whole = bytearray(tiny.read_bytes())
    (vocabulary_at,) = struct.unpack_from("<I", whole, 12)
    struct.pack_into("<I", whole, 16, vocabulary_at + 20)
    path = tmp_path / "early.bin"
    path.write_bytes(whole)
    message = facts_or_one_line(path)
    assert message and message.endswith(
        f"goes beyond the offset of the tensors, {vocabulary_at + 20}; {ANEW}"
    )
    assert int(message.partition("offset ")[2].partition(":")[0]) <= vocabulary_at + 24
