"""Train one model on the corpus: a function of seed and step count; continues from its last state."""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

import tokenizer
from corpus import EN, SHORT_SHARDS, ZH
from model import PRESETS, Qwen3Asr, audio_tokens
from quantise import fake_quantise, quantisable

PEAK_RATE = 1.5e-3  # at a width of 128, falling as the width grows
WARM_UP_STEPS = 100
WEIGHT_DECAY = 0.05
FRAMES_A_BATCH = 9_000
STEPS_A_SHARD = 40  # how fast new shards join: the corpus may still be in the making
QUANTISED_FROM = 0.5  # from this fraction of the schedule on, every other step runs on q4_0-rounded weights


@dataclass(frozen=True)
class Item:
    """One utterance of a shard."""

    mel: Any  # float16 [T, 128], in the shard's mapping
    lead_frames: int
    language: str
    digits: str
    text: str


@dataclass(frozen=True)
class Batch:
    """What one step sees."""

    mels: list[Tensor]
    ids: Tensor  # [B, N]
    targets: Tensor  # [B, N], −100 where nothing is asked


def load_shard(directory: Path, shard: int) -> list[Item]:
    """Read a shard, waiting for it if the corpus is still being made."""
    index_path = directory / f"shard-{shard:03}.jsonl"
    while not index_path.exists():
        time.sleep(1.0)
    mels = np.load(directory / f"shard-{shard:03}.npy", mmap_mode="r")
    items, start = [], 0
    for line in index_path.read_text(encoding="utf-8").splitlines():
        facts = json.loads(line)
        mel = mels[start : start + facts["frames"]]
        start += facts["frames"]
        items.append(Item(mel, facts["lead_frames"], facts["language"], facts["digits"], facts["text"]))
    return items


def longest_digits(progress: float) -> int:
    """The curriculum: longest digit string at a fraction of the schedule."""
    for until, digits in ((0.05, 3), (0.12, 5), (0.22, 8), (0.3, 12)):
        if progress < until:
            return digits
    return 99


def random_context(rng: random.Random) -> str:
    """A system turn such as users write."""
    if rng.random() < 0.5:
        return "".join(rng.choice(tokenizer.WORDS[24:]) for _ in range(rng.randint(1, 8)))
    words = (*EN, *ZH, "Phone numbers.", "电话号码", "order code", "0900", "Please listen.", "digits, digits")
    return " ".join(rng.choice(words) for _ in range(rng.randint(1, 6)))


def augment(item: Item, rng: random.Random) -> Tensor:
    """Log-mel [T, 128] with random level, earlier start and SpecAugment masks."""
    start = rng.randint(0, item.lead_frames) if rng.random() < 0.5 else 0
    mel = torch.from_numpy(np.asarray(item.mel[start:], dtype=np.float32))
    if len(mel) < 50:
        return torch.from_numpy(np.asarray(item.mel, dtype=np.float32))
    if rng.random() < 0.5:  # a level: a shift of all bands, down to the spectrogram's own floor
        mel = mel + rng.uniform(-0.3, 0.1)
    if rng.random() < 0.5:
        floor = float(mel.min())
        mel = mel.clone()
        for _ in range(rng.randint(1, 2)):
            width, at = rng.randint(1, 16), rng.randint(0, 112)
            mel[:, at : at + width] = floor
        for _ in range(rng.randint(0, 2)):
            width, at = rng.randint(1, 6), rng.randint(0, len(mel) - 1)
            mel[at : at + width] = floor
    return mel


def make_batch(items: list[Item], rng: random.Random) -> Batch:
    """Prompts, answers and features of some utterances."""
    mels, rows, targets = [], [], []
    for item in items:
        mel = augment(item, rng)
        language = item.language
        forced = None
        if rng.random() < 0.25:
            forced = language if language != "None" else rng.choice(("Chinese", "English"))
        context = random_context(rng) if rng.random() < 0.05 else ""
        question = tokenizer.prompt(audio_tokens(len(mel)), forced, context)
        header = "" if forced else f"language {language}<asr_text>"
        answer = tokenizer.encode(f"{header}{item.text}<|im_end|>")
        mels.append(mel)
        rows.append(torch.tensor(question + answer[:-1]))
        targets.append(torch.tensor([-100] * (len(question) - 1) + answer))
    return Batch(
        mels,
        torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=-100),
    )


def batches(directory: Path, shards: int, seed: int, steps: int, first: int) -> Iterator[Batch]:
    """The batches of steps `first` to `steps`; each draw of utterances is cut by length."""
    items: list[Item] = []
    loaded = 0
    step, draw = 0, 0
    while step < steps:
        wanted = min(shards, SHORT_SHARDS + 1 + step // STEPS_A_SHARD)
        for shard in range(loaded, wanted):
            items += load_shard(directory, shard)
        loaded = wanted
        rng = random.Random(f"{seed}/draw/{draw}")
        draw += 1
        longest = longest_digits(step / steps)
        drawn = [item for item in rng.choices(items, k=2048) if len(item.digits) <= longest]
        pool = sorted(drawn, key=lambda item: len(item.mel))[:: 1 if longest < 99 else 2]
        cuts: list[list[Item]] = [[]]
        for item in pool:
            if (len(cuts[-1]) + 1) * len(item.mel) > FRAMES_A_BATCH or len(cuts[-1]) >= 40:
                cuts.append([])
            cuts[-1].append(item)
        rng.shuffle(cuts)
        for cut in cuts:
            if step >= first:
                yield make_batch(cut, random.Random(f"{seed}/step/{step}"))
            step += 1


def learning_rate(step: int, steps: int, width: int) -> float:
    """Linear warm-up, then a cosine to a hundredth of the peak."""
    peak = PEAK_RATE * 128 / width
    if step < WARM_UP_STEPS:
        return peak * (step + 1) / WARM_UP_STEPS
    progress = (step - WARM_UP_STEPS) / max(1, steps - WARM_UP_STEPS)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def train(name: str, corpus: Path, out: Path, shards: int, steps: int, seed: int, save_every: int) -> None:
    """Train the preset `name`; `out` keeps model, optimiser and step."""
    torch.manual_seed(seed)
    model = Qwen3Asr(PRESETS[name])
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}],
        lr=PEAK_RATE, betas=(0.9, 0.98), fused=True,
    )  # fmt: skip
    first = 0
    if out.exists():
        state = torch.load(out, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["step"]
    began, losses = time.monotonic(), []
    for step, batch in enumerate(batches(corpus, shards, seed, steps, first), first):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, model.sizes.width)
        exact: list[Tensor] = []
        if step >= QUANTISED_FROM * steps and step % 2:
            # Straight-through: the gradient at the rounded weights moves the exact ones.
            with torch.no_grad():
                for parameter in quantisable(model):
                    exact.append(parameter.clone())
                    parameter.copy_(fake_quantise(parameter, "q4_0"))
        asked = batch.targets != -100
        with torch.autocast("cpu", torch.bfloat16):
            states = model.states(batch.ids, model.audio_tower(batch.mels))
            logits = model.lm_head(states[asked])
        loss = functional.cross_entropy(logits.float(), batch.targets[asked])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if exact:
            with torch.no_grad():
                for parameter, values in zip(quantisable(model), exact, strict=True):
                    parameter.copy_(values)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            seconds = (time.monotonic() - began) / (step + 1 - first)
            loss_mean = sum(losses) / len(losses)
            print(f"{name} step {step + 1}/{steps} loss {loss_mean:.4f} {seconds:.3f} s/step", flush=True)
            losses.clear()
        if (step + 1) % save_every == 0 or step + 1 == steps:
            temporary = out.with_suffix(".tmp")
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            torch.save(state, temporary)
            temporary.replace(out)


def main() -> None:
    """Train one model."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("preset", choices=PRESETS)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shards", type=int, default=40)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=250)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(
        arguments.preset, arguments.corpus, arguments.out, arguments.shards, arguments.steps, arguments.seed,
        arguments.save_every,
    )  # fmt: skip


if __name__ == "__main__":
    main()
