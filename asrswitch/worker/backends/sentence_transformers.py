"""Embedding models by the library sentence-transformers, in this process."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asrswitch.worker.backends import BackendError, Transcription
from asrswitch.worker.backends.hugging_face import HuggingFaceBackend
from asrswitch.worker.protocol import LoadOptions


class SentenceTransformersBackend(HuggingFaceBackend):
    """A text becomes a vector, of which the record has the length and a digest, and not the numbers."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        super().__init__(configuration, "sentence_transformers", gives="embedding")

    def open(self, directory: Path, options: LoadOptions) -> Any:
        return self._library.SentenceTransformer(
            str(directory),
            device=self._device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"dtype": self._dtype},
        )

    def ask(self, model: Any, text: str) -> Transcription:
        submitted_ns = time.monotonic_ns()
        vector = model.encode(text, convert_to_numpy=True, show_progress_bar=False)
        returned_ns = time.monotonic_ns()
        norm = math.sqrt(sum(float(number) ** 2 for number in vector))
        if not math.isfinite(norm):
            raise BackendError('the embedding has values that are no numbers; write dtype = "float32"')
        digest = hashlib.sha256(vector.tobytes()).hexdigest()
        return Transcription(
            submitted_ns,
            returned_ns,
            pieces=[],
            statistics=[f"embedding: {vector.dtype}, sha256 {digest}"],
            reported={"dimensions": float(len(vector)), "norm": norm},
        )
