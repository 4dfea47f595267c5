"""The models' vocabulary: byte-level BPE of 512 entries in which every digit word is one token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

VOCABULARY_SIZE = 512

# Qwen2's pre-tokenisation.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# The 62 added tokens of Qwen3-ASR in the official order; they take the last ids.
_VISION = (
    "object_ref_start object_ref_end box_start box_end quad_start quad_end vision_start vision_end vision_pad"
)
_CODE = "fim_prefix fim_middle fim_suffix fim_pad repo_name file_sep"
_SPEECH = "tts_pad tts_text_bos tts_text_eod tts_text_bos_single non_speech"
ADDED = (
    *(
        f"<|{name}|>"
        for name in ("endoftext", "im_start", "im_end", *_VISION.split(), "image_pad", "video_pad")
    ),
    *("<tool_call>", "</tool_call>"),
    *(f"<|{name}|>" for name in _CODE.split()),
    *("<tool_response>", "</tool_response>", "<think>", "</think>", "<|audio_start|>", "<|audio_end|>"),
    *(f"<{name}>" for name in _SPEECH.split()),
    "<|audio_pad|>",
    *(f"<blank{number}>" for number in range(1, 28)),
    "<asr_text>",
)
SPECIAL = frozenset((*ADDED[:14], "<|audio_start|>", "<|audio_end|>", "<|audio_pad|>"))

# Words that become one token each, in order of priority; the last are filler for contexts.
_WORDS = (
    "language| Chinese| English| None|system|user|assistant|零|一|二|三|四|五|六|七|八|九|"
    " zero| one| two| three| four| five| six| seven| eight| nine|"
    "zero|one|two|three|four|five|six|seven|eight|nine|"
    "电|话|号|码|的|是|数|字| the| phone| number| digits| of| and| is| in| to| a| code| order|"
    " call| for| with|the|phone|number|digits|code|order|call|Phone|Number| on| at| it| be|"
    " are| from| account| card| please| my| your"
)
WORDS = tuple(_WORDS.split("|"))


def byte_alphabet() -> list[str]:
    """GPT-2's printable character for each byte value."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    shifted = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(shifted)) for byte in range(256)]


@dataclass(frozen=True)
class Vocabulary:
    """What vocab.json and merges.txt hold."""

    ids: dict[str, int]
    merges: list[tuple[str, str]]


def _apply(pieces: list[str], ranks: dict[tuple[str, str], int]) -> list[str]:
    while True:
        pairs = [pair for pair in pairwise(pieces) if pair in ranks]
        if not pairs:
            return pieces
        best = min(pairs, key=ranks.__getitem__)
        merged: list[str] = []
        for piece in pieces:
            if merged and (merged[-1], piece) == best:
                merged[-1] += piece
            else:
                merged.append(piece)
        pieces = merged


@cache
def vocabulary() -> Vocabulary:
    """The 256 bytes and as many merges as fill the vocabulary, each made while spelling out WORDS."""
    alphabet = byte_alphabet()
    ordered = sorted(alphabet)
    ranks: dict[tuple[str, str], int] = {}
    wanted = VOCABULARY_SIZE - len(ADDED) - len(ordered)
    for word in WORDS:
        pieces = _apply([alphabet[byte] for byte in word.encode()], ranks)
        whole = pieces[0]
        for piece in pieces[1:]:
            if len(ranks) < wanted:
                ranks[whole, piece] = len(ranks)
            whole += piece
    if len(ranks) < wanted:
        raise ValueError(f"WORDS give only {len(ranks)} merges of {wanted}: add words")
    ids = {token: index for index, token in enumerate([*ordered, *(a + b for a, b in ranks)])}
    for token in ids:
        if _apply(list(token), ranks) != [token]:
            raise ValueError(f"no text gives the token {token!r}")
    return Vocabulary(ids, list(ranks))


@cache
def added_ids() -> dict[str, int]:
    """Ids of the added tokens."""
    return {content: VOCABULARY_SIZE - len(ADDED) + index for index, content in enumerate(ADDED)}


@cache
def tokenizer() -> Tokenizer:
    """The tokenizer as Hugging Face `tokenizers` runs it."""
    made = vocabulary()
    result = Tokenizer(models.BPE(vocab=made.ids, merges=made.merges))
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PATTERN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    result.decoder = decoders.ByteLevel()
    result.add_tokens(
        [AddedToken(content, normalized=False, special=content in SPECIAL) for content in ADDED]
    )
    return result


def encode(text: str) -> list[int]:
    """Ids of a text that may hold added tokens."""
    ids: list[int] = tokenizer().encode(text, add_special_tokens=False).ids
    return ids


def decode(ids: list[int]) -> str:
    """Text of ids, added tokens included."""
    text: str = tokenizer().decode(ids, skip_special_tokens=False)
    return text


def prompt(audio_tokens: int, language: str | None = None, context: str = "") -> list[int]:
    """Ids of the prompt, with the audio's place holders; `language` forces the header of the answer."""
    head = encode(f"<|im_start|>system\n{context}<|im_end|>\n<|im_start|>user\n<|audio_start|>")
    tail = encode("<|audio_end|><|im_end|>\n<|im_start|>assistant\n")
    forced = encode(f"language {language}<asr_text>") if language else []
    return [*head, *[added_ids()["<|audio_pad|>"]] * audio_tokens, *tail, *forced]


def tokenizer_files() -> dict[str, str]:
    """Contents of vocab.json, merges.txt and tokenizer_config.json."""
    made = vocabulary()
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {
            str(index): {"content": content, "lstrip": False, "normalized": False, "rstrip": False,
                         "single_word": False, "special": content in SPECIAL}
            for content, index in added_ids().items()
        },
        "additional_special_tokens": [content for content in ADDED[1:] if content in SPECIAL],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "processor_class": "Qwen3ASRProcessor",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
        "audio_token": "<|audio_pad|>",
        "audio_bos_token": "<|audio_start|>",
        "audio_eos_token": "<|audio_end|>",
    }  # fmt: skip
    return {
        "vocab.json": json.dumps(made.ids, ensure_ascii=False),
        "merges.txt": "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in made.merges),
        "tokenizer_config.json": json.dumps(config, ensure_ascii=False, indent=2) + "\n",
    }
