"""From nothing to the two embedded models: corpus, training, checkpoints, `.bin` files, samples, check.

Everything follows from the seeds in the scripts; what exists already is not made again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import soundfile

from asrswitch.convert import convert
from corpus import SHARD_SIZE
from export import export_checkpoint, load_checkpoint
from quantise import quantise_
from samples import SAMPLES, write_samples
from transcribe import Prompt, engine_transcriber, split_answer, torch_transcriber

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

STEPS = {"small": 5_500, "large": 6_500}


def start(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Run a script of this directory with one thread; its lines go to a log."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, *arguments], cwd=HERE, env=environment, stdout=file, stderr=file
        )


def finish(running: dict[str, subprocess.Popen[bytes]]) -> None:
    """Wait for processes; the first that fails ends the others and this one."""
    try:
        for name, process in running.items():
            if process.wait() != 0:
                raise SystemExit(f"{name} failed: see {name}.log in the work directory")
    finally:
        for process in running.values():
            process.terminate()


def make_states(work: Path, shards: int, fraction: float) -> None:
    """Corpus and both trainings, side by side (a training waits for its shards)."""
    corpus = work / "corpus"
    common = ["--corpus", str(corpus), "--shards", str(shards)]
    running = {
        "corpus": start(["corpus.py", "--out", str(corpus), "--shards", str(shards)], work / "corpus.log")
    }
    for name, steps in STEPS.items():
        job = ["train.py", name, *common, "--out", str(work / f"{name}.pt")]
        job += ["--steps", str(int(steps * fraction))]
        running[name] = start(job, work / f"{name}.log")
    finish(running)


def check_samples(name: str, checkpoint: Path, models: Path, samples: Path, library: str | None) -> bool:
    """Whether each sample is transcribed right, in torch with each kind of weights and by the engine."""
    clips = [soundfile.read(samples / f"{sample}.wav", dtype="float32")[0] for sample in SAMPLES]
    answers = {}
    for kind in ("f32", "q8_0", "q4_0"):
        model = load_checkpoint(name, checkpoint)
        if kind != "f32":
            quantise_(model, kind)
        answers[f"torch {kind}"] = torch_transcriber(model)(clips, Prompt())
    if library:
        answers["engine"] = engine_transcriber(models / f"digits-{name}.bin", library)(clips, Prompt())
    right = True
    for who, texts in answers.items():
        for (sample, utterance), answer in zip(SAMPLES.items(), texts, strict=True):
            good = split_answer(answer) == (utterance.language, utterance.text)
            right &= good
            print(f"{name:5} {who:10} {sample:8} {'right' if good else 'WRONG: ' + answer}")
    return right


def main() -> int:
    """Make the two models."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work", type=Path, default=HERE / "work", help="for what is made on the way")
    parser.add_argument("--models", type=Path, default=ROOT / "asrswitch" / "models")
    parser.add_argument("--samples", type=Path, default=ROOT / "asrswitch" / "samples")
    parser.add_argument("--library", help="libchatllm.so: check the samples with the engine too")
    parser.add_argument("--shards", type=int, default=40, help=f"of the corpus, {SHARD_SIZE} utterances each")
    parser.add_argument("--fraction", type=float, default=1.0, help="of the training steps, for a quick try")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    make_states(arguments.work, arguments.shards, arguments.fraction)
    write_samples(arguments.samples)
    arguments.models.mkdir(parents=True, exist_ok=True)
    right = True
    for name in STEPS:
        checkpoint = arguments.work / "checkpoints" / f"digits-{name}"
        export_checkpoint(name, arguments.work / f"{name}.pt", checkpoint)
        convert(checkpoint, arguments.models / f"digits-{name}.bin", "q8_0")
        right &= check_samples(name, checkpoint, arguments.models, arguments.samples, arguments.library)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
