"""The two ways to run a model over clips: torch, and the engine through its C interface."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile
import torch

import tokenizer
from asrswitch.native import ffi, open_library
from asrswitch.native.locate import find_library
from features import SAMPLE_RATE, FloatArray, log_mel
from model import Qwen3Asr, audio_tokens

MAX_NEW_TOKENS = 40
BATCH = 16


@dataclass(frozen=True)
class Prompt:
    """What the prompt says besides the audio."""

    language: str | None = None  # forced, so that the answer has no header
    context: str = ""


Transcriber = Callable[[Sequence[FloatArray], Prompt], list[str]]


def split_answer(answer: str) -> tuple[str, str]:
    """`language X<asr_text>text` to (X, text); an answer without header to ("", answer)."""
    header, mark, text = answer.partition("<asr_text>")
    return (header.removeprefix("language "), text) if mark else ("", answer)


@torch.inference_mode()
def _greedy(model: Qwen3Asr, clips: Sequence[FloatArray], prompt: Prompt) -> list[str]:
    mels = [torch.from_numpy(log_mel(clip)) for clip in clips]
    audio = model.audio_tower(mels)
    rows = [tokenizer.prompt(audio_tokens(len(mel)), prompt.language, prompt.context) for mel in mels]
    starts = [len(row) for row in rows]
    end = tokenizer.added_ids()["<|im_end|>"]
    unfinished = set(range(len(rows)))
    for _ in range(MAX_NEW_TOKENS):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        states = model.states(ids, audio)
        last = states[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
        choices = model.lm_head(last).argmax(-1).tolist()
        for index in list(unfinished):
            if choices[index] == end:
                unfinished.remove(index)
            else:
                rows[index].append(choices[index])
        if not unfinished:
            break
    return [tokenizer.decode(row[start:]) for row, start in zip(rows, starts, strict=True)]


def torch_transcriber(model: Qwen3Asr) -> Transcriber:
    """Greedy answers of the torch model, clips of similar length together."""

    def run(clips: Sequence[FloatArray], prompt: Prompt) -> list[str]:
        order = sorted(range(len(clips)), key=lambda index: clips[index].size)
        answers = [""] * len(clips)
        for at in range(0, len(order), BATCH):
            part = order[at : at + BATCH]
            for index, answer in zip(part, _greedy(model, [clips[i] for i in part], prompt), strict=True):
                answers[index] = answer
        return answers

    return run


def engine_transcriber(model_path: Path, library_path: str | None) -> Transcriber:
    """Answers of the engine with a `.bin` file; the library is the package's unless it is named."""
    library = open_library(str(find_library(library_path, os.environ)))

    def run(clips: Sequence[FloatArray], prompt: Prompt) -> list[str]:
        pieces: list[str] = []
        errors: list[str] = []

        @ffi.callback("f_chatllm_print")  # type: ignore[untyped-decorator]
        def on_print(_user: object, kind: int, text: object) -> None:
            {0: pieces, 2: errors}.get(kind, []).append(ffi.string(text).decode("utf-8", "replace"))

        @ffi.callback("f_chatllm_end")  # type: ignore[untyped-decorator]
        def on_end(_user: object) -> None:
            pass

        words = ["-m", str(model_path), "-n", "1", "--temp", "0"]
        words += ["--set", "language", prompt.language] if prompt.language else []
        words += ["-s", prompt.context] if prompt.context else []
        answers = []
        handle = library.chatllm_create()
        try:
            for word in words:
                library.chatllm_append_param(handle, word.encode())
            if library.chatllm_start(handle, on_print, on_end, ffi.NULL) != 0:
                raise RuntimeError(f"{model_path}: {' '.join(errors)}")
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / "clip.wav"
                for clip in clips:
                    soundfile.write(path, clip, SAMPLE_RATE, subtype="PCM_16")
                    pieces.clear()
                    library.chatllm_restart(handle, ffi.NULL)
                    if library.chatllm_user_input(handle, f"{{{{audio:{path}}}}}".encode()) != 0:
                        raise RuntimeError(f"{path}: {' '.join(errors)}")
                    answers.append("".join(pieces))
        finally:
            library.chatllm_destroy(handle)
        return answers

    return run
