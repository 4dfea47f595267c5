"""The engine's tokenizer, through its C interface: ids and bytes as Hugging Face `tokenizers` gives them."""

from __future__ import annotations

import ctypes
import json
import os
import random
import unicodedata
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from asrswitch.convert import convert
from asrswitch.native.locate import find_library
from helpers.checkpoint import ADDED_TOKENS
from helpers.engine import Engine as TracedEngine
from helpers.tiny_checkpoint import write_tiny_checkpoint

# Qwen2's pre-tokenisation. The official tokenizer applies NFC before it, the engine does not.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
VOCAB_SIZE = 3000
N_STRINGS = 12_000

# First and last code point of a script, and how often it is taken.
SCRIPTS = [
    (0x21, 0x7E, 12),  # ASCII
    (0xA1, 0x17F, 2),  # Latin
    (0x300, 0x36F, 1),  # combining marks
    (0x370, 0x3FF, 1),  # Greek
    (0x400, 0x4FF, 2),  # Cyrillic
    (0x590, 0x5FF, 1),  # Hebrew
    (0x600, 0x6FF, 1),  # Arabic, with digits
    (0x900, 0x97F, 1),  # Devanagari, with digits
    (0xE00, 0xE7F, 1),  # Thai
    (0x1100, 0x11FF, 1),  # Hangul letters
    (0x2000, 0x206F, 1),  # spaces, separators, joiners
    (0x2150, 0x218F, 1),  # fractions, Roman numerals
    (0x3000, 0x30FF, 2),  # CJK punctuation, kana
    (0x4E00, 0x4FFF, 4),  # Han
    (0xAC00, 0xAD00, 1),  # Hangul syllables
    (0xFF00, 0xFFEF, 1),  # full-width forms
    (0x1D400, 0x1D7FF, 1),  # mathematical letters and digits
    (0x1F300, 0x1F64F, 2),  # emoji
]
SPACES = [" ", "  ", "   ", "\n", "\r\n", "\n\n", " \n ", "\t", "\v", "\x1c"]
SPACES += ["\x85", "\xa0", "\u2028", "\u3000"]
CONTRACTIONS = ["'s", "'S", "'t", "'re", "'RE", "'Ve", "'ve", "'ll", "'lL", "'m", "'d", "'D"]
CONTRACTIONS += ["'ſ", "'x", "'", "''s", "’s"]
EMOJI = ["👨‍👩‍👧", "👋🏽", "🇩🇪", "❤️", "1️⃣", "🏴‍☠️"]
ADDED = ["<|im_start|>", "<asr_text>", "<tool_call>", "<|im_start", "<<asr_text>>", "<blank1>", "<blank12>"]


def is_assigned(char: str) -> bool:
    """Known to this Python's Unicode, hence to both tokenizers' (16.0) up to Python 3.14; no surrogate."""
    return unicodedata.category(char) not in ("Cn", "Cs")


class Strings:
    """Generates text; the same seed gives the same text."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        weights = [weight for _, _, weight in SCRIPTS]
        self._words = [
            "".join(chr(self._random.randint(first, last)) for _ in range(self._random.randint(1, 7)))
            for first, last, _ in self._random.choices(SCRIPTS, weights, k=1500)
        ]

    def text(self, added: bool) -> str:
        pick = self._random
        parts = []
        for _ in range(pick.randint(0, 12)):
            kind = pick.random()
            if kind < 0.5:
                parts.append(self._words[min(int(pick.expovariate(1 / 200)), len(self._words) - 1)])
            elif kind < 0.65:
                parts.append(pick.choice(SPACES) * pick.choice([1, 1, 1, 2, 3]))
            elif kind < 0.75:
                parts.append(pick.choice(CONTRACTIONS))
            elif kind < 0.85:
                parts.append(str(pick.randrange(10 ** pick.randint(1, 6))))
            elif kind < 0.9:
                parts.append(pick.choice(EMOJI))
            elif kind < 0.95 and added:
                parts.append(pick.choice(ADDED))
            else:
                char = chr(pick.randrange(1, 0x110000))
                parts.append(char if is_assigned(char) else "?")
            if pick.random() < 0.4:
                parts.append(" ")
        return "".join(parts)

    def broken(self) -> bytes:
        """UTF-8 with bytes lost, changed and put in; without zero bytes, which end a C string."""
        pick = self._random
        data = bytearray(self.text(added=True).encode())
        for _ in range(pick.randint(1, 5)):
            at = pick.randrange(len(data) + 1)
            kind = pick.random()
            if kind < 0.4:
                del data[at : at + 1]
            elif kind < 0.7:
                data[at : at + 1] = bytes([pick.randint(1, 255)])
            else:
                data[at:at] = bytes(pick.choices(range(128, 256), k=pick.randint(1, 3)))
        return bytes(data)


@dataclass(frozen=True)
class Reference:
    vocab: dict[str, int]
    merges: list[str]
    tokenizer: Tokenizer

    def ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def text(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False)
        return text


@pytest.fixture(scope="module")
def reference() -> Reference:
    """A byte-level vocabulary trained by `tokenizers`, followed by the 62 added tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=VOCAB_SIZE, initial_alphabet=alphabet, show_progress=False)
    strings = Strings(seed=1)
    tokenizer.train_from_iterator([strings.text(added=False) for _ in range(8000)], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [" ".join(rule) if isinstance(rule, list) else rule for rule in model["merges"]]
    assert len(merges) > 2000, "the training text is too small for this test"
    tokenizer.add_tokens([AddedToken(content, normalized=False) for content in ADDED_TOKENS])
    return Reference(model["vocab"], merges, tokenizer)


BYTES = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)


class Engine:
    """A loaded model, of which only the tokenizer is used."""

    def __init__(
        self, library: ctypes.CDLL, handle: ctypes.c_void_p, printed: list[tuple[int, bytes]]
    ) -> None:
        self._library = library
        self._handle = handle
        self._printed = printed

    def ids(self, data: bytes) -> list[int]:
        self._printed.clear()
        count = self._library.chatllm_text_tokenize(self._handle, data)
        assert [kind for kind, _ in self._printed] == [10], self._printed
        ids = [int(number) for number in self._printed[0][1].split(b",") if number]
        assert len(ids) == count
        return ids

    def bytes(self, ids: list[int]) -> bytes:
        pieces: list[bytes] = []
        sink = BYTES(lambda _user, data, n_bytes: pieces.append(ctypes.string_at(data, n_bytes)))
        array = (ctypes.c_int32 * len(ids))(*ids)
        count = self._library.chatllm_ext_detokenize(self._handle, array, len(ids), sink, None)
        assert [len(piece) for piece in pieces] == [count]
        return pieces[0]


@contextmanager
def load(model: Path) -> Iterator[Engine]:
    print_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
    library = ctypes.CDLL(str(find_library(None, os.environ)))
    library.chatllm_create.restype = ctypes.c_void_p
    for name in ("append_param", "text_tokenize"):
        getattr(library, f"chatllm_{name}").argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.chatllm_start.argtypes = [ctypes.c_void_p, print_type, ctypes.c_void_p, ctypes.c_void_p]
    library.chatllm_ext_detokenize.argtypes = [
        ctypes.c_void_p, ctypes.POINTER(ctypes.c_int32), ctypes.c_int, BYTES, ctypes.c_void_p,
    ]  # fmt: skip
    library.chatllm_destroy.argtypes = [ctypes.c_void_p]

    printed: list[tuple[int, bytes]] = []
    on_print = print_type(lambda _user, kind, text: printed.append((kind, text)))
    handle = library.chatllm_create()
    try:
        for word in ("-m", str(model), "-n", "1"):
            library.chatllm_append_param(handle, word.encode())
        assert library.chatllm_start(handle, on_print, None, None) == 0, printed
        yield Engine(library, handle, printed)
    finally:
        library.chatllm_destroy(handle)


@pytest.fixture(scope="module")
def model(reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity")
    checkpoint = write_tiny_checkpoint(folder / "checkpoint", reference.vocab, reference.merges, seed=2)
    convert(checkpoint, folder / "model.bin", "f16")
    return folder / "model.bin"


@pytest.fixture(scope="module")
def engine(model: Path) -> Iterator[Engine]:
    with load(model) as loaded:
        yield loaded


def assert_same(engine: Engine, reference: Reference, data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    ids = engine.ids(data)
    assert ids == reference.ids(text), data
    assert engine.bytes(ids) == text.encode(), data


def test_text_in_many_scripts(engine: Engine, reference: Reference) -> None:
    strings = Strings(seed=3)
    for _ in range(N_STRINGS):
        assert_same(engine, reference, strings.text(added=True).encode())


def test_broken_utf8_counts_as_replacement_characters(engine: Engine, reference: Reference) -> None:
    strings = Strings(seed=4)
    n_broken = 0
    for _ in range(N_STRINGS // 3):
        data = strings.broken()
        n_broken += "\ufffd" in data.decode("utf-8", "replace")
        assert_same(engine, reference, data)
    assert n_broken > N_STRINGS // 6


def test_decoded_bytes_of_any_ids(engine: Engine, reference: Reference) -> None:
    """Ids in any order: most are no whole characters."""
    pick = random.Random(5)
    size = len(reference.vocab) + len(ADDED_TOKENS)
    for _ in range(N_STRINGS):
        ids = [pick.randrange(size) for _ in range(pick.randint(1, 20))]
        assert engine.bytes(ids).decode("utf-8", "replace") == reference.text(ids), ids


@pytest.mark.slow
def test_every_assigned_character(engine: Engine, reference: Reference) -> None:
    """A letter joins the letters beside it, a digit stands alone, a space leads: the ids show each class."""
    chars = [chr(code) for code in range(1, 0x110000) if is_assigned(chr(code))]
    for start in range(0, len(chars), 100):
        chunk = chars[start : start + 100]
        assert_same(engine, reference, "".join(f"a{char}a {char}'{char}!" for char in chunk).encode())


@pytest.mark.parametrize("added", ADDED_TOKENS)
def test_added_tokens_in_text(engine: Engine, reference: Reference, added: str) -> None:
    ids = engine.ids(f"a {added} b{added}{added}".encode())
    assert ids.count(len(reference.vocab) + ADDED_TOKENS.index(added)) == 3
    assert_same(engine, reference, f"a {added} b{added}{added}".encode())


@pytest.mark.parametrize(
    "text", ["a" * 100_000, " " * 50_000, "中文" * 20_000, "!\n" * 20_000, "'s" * 20_000]
)
def test_long_runs(engine: Engine, reference: Reference, text: str) -> None:
    assert_same(engine, reference, text.encode())


@pytest.mark.parametrize("language", ["auto", "Chinese", "English"])
@pytest.mark.parametrize("context", ["", "names: Ada, Łukasz", "\n two lines \n\n", "数字 0900 073-331!  "])
def test_prompt_is_the_template_tokenised(
    model: Path, reference: Reference, tmp_path: Path, context: str, language: str
) -> None:
    """The official template filled in as text, tokenised whole by `tokenizers`."""
    clip = tmp_path / "silence.wav"
    with wave.open(str(clip), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", "not compressed"))
        file.writeframes(bytes(2 * 16_000))
    options = ["-s", context, "--set", "language", language, "--max_new_tokens", "1"]
    with TracedEngine(model, *options) as traced:
        result = traced.run(clip)
    n_audio = len(result.one("enc_out"))
    text = f"<|im_start|>system\n{context}<|im_end|>\n<|im_start|>user\n<|audio_start|>"
    text += "<|audio_pad|>" * n_audio + "<|audio_end|><|im_end|>\n<|im_start|>assistant\n"
    text += "" if language == "auto" else f"language {language}<asr_text>"
    assert n_audio == 13
    assert result.prompt_ids == reference.ids(text)
