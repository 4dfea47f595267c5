"""Both of Hugging Face's backends in one worker, and the libraries beside them: one import for all."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from asrswitch.worker.backends import Transcription
from asrswitch.worker.backends.hugging_face import HuggingFaceBackend
from asrswitch.worker.backends.sentence_transformers import SentenceTransformersBackend
from asrswitch.worker.backends.transformers import TransformersBackend
from asrswitch.worker.protocol import Capabilities, LoadOptions

REFERENCE = "reference"


class Both:
    """Labels that begin with ``e`` are of embedding models, others of text models; one is the reference's."""

    capabilities: Capabilities

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        self._embeddings = SentenceTransformersBackend(configuration)
        self._texts = TransformersBackend(configuration)
        self.capabilities = self._texts.capabilities

    def load(self, label: str, options: LoadOptions) -> tuple[int, int]:
        return self._of(label).load(label, options)

    def infer(self, label: str, given: str) -> Transcription:
        if label != REFERENCE:
            return self._of(label).infer(label, given)
        now = time.monotonic_ns()
        return Transcription(now, now, [], [json.dumps(compute(**json.loads(given)))])

    def unload(self, label: str) -> tuple[int, int]:
        return self._of(label).unload(label)

    def restart(self, label: str) -> tuple[int, int]:
        return self._of(label).restart(label)

    def processes(self) -> Sequence[int | str]:
        return [*self._embeddings.processes(), *self._texts.processes()]

    def resident(self) -> Sequence[str]:
        return [*self._embeddings.resident(), *self._texts.resident()]

    def _of(self, label: str) -> HuggingFaceBackend:
        return self._embeddings if label.startswith("e") else self._texts


def compute(embedder: str, writer: str, texts: list[str], tokens: int) -> list[Any]:
    """What the libraries make of texts by the shortest way: sums of vectors, lengths and continuations."""
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = SentenceTransformer(embedder, device="cpu")
    sums = [hashlib.sha256(model.encode(text).tobytes()).hexdigest() for text in texts]
    network, tokenizer = AutoModelForCausalLM.from_pretrained(writer), AutoTokenizer.from_pretrained(writer)
    written = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        length = inputs["input_ids"].shape[1]
        ids = network.generate(**inputs, do_sample=False, max_new_tokens=tokens)[0, length:]
        written.append([length, len(ids), tokenizer.decode(ids, skip_special_tokens=True)])
    return [sums, written]
