"""Text-generation models by the library transformers, in this process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asrswitch.worker.backends import BackendError, Transcription
from asrswitch.worker.backends.hugging_face import HuggingFaceBackend
from asrswitch.worker.protocol import LoadOptions

_CUT = "\N{REPLACEMENT CHARACTER}"  # what a decoder makes of the first bytes of a character
_USES = ("AutoTokenizer", "AutoModelForCausalLM", "GenerationMixin", "PreTrainedTokenizerFast")


class TransformersBackend(HuggingFaceBackend):
    """A text is continued; by a model with a chat template it is answered."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        super().__init__(configuration, "transformers", gives="text", uses=_USES)

    def open(self, directory: Path, options: LoadOptions) -> Any:
        words = {"local_files_only": True, "trust_remote_code": False}
        tokenizer = self._library.AutoTokenizer.from_pretrained(directory, **words)
        model = self._library.AutoModelForCausalLM.from_pretrained(directory, dtype=self._dtype, **words)
        model.to(self._device).eval()
        how = model.generation_config
        # Greedy: what a model's own configuration says of sampling would be warned of each time.
        how.do_sample, how.num_beams = False, 1
        how.temperature = how.top_p = how.top_k = None
        how.max_length, how.max_new_tokens = None, options["max_new_tokens"]
        if how.pad_token_id is None:
            how.pad_token_id = 0  # nothing is padded: it is a text at a time
        return model, tokenizer

    def ask(self, model: Any, text: str) -> Transcription:
        network, tokenizer = model
        streamer = Pieces(tokenizer)
        submitted_ns = time.monotonic_ns()
        with self._torch.inference_mode():
            inputs = _inputs(tokenizer, text).to(self._device)
            _check_length(inputs["input_ids"].shape[1], network.config)
            network.generate(**inputs, streamer=streamer)
        self._wait()
        returned_ns = time.monotonic_ns()
        counts = {"tokens": float(streamer.tokens), "prompt_tokens": float(streamer.prompt_tokens)}
        return Transcription(submitted_ns, returned_ns, streamer.pieces, statistics=[], reported=counts)


class Pieces:
    """Takes token ids as ``generate`` makes them, and keeps each one's text with its time.

    A token that ends within a character has the text before that; the one that completes it has the rest.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        # A token's text depends on those before it, so it is decoded with some of them: from the one on after
        # which a character had ended, for the last time but one.
        self._context = 0
        self._ended = 0
        self._told = 0  # characters of the text from there on that are in a piece
        self.pieces: list[tuple[int, str]] = []
        self.prompt_tokens = 0

    @property
    def tokens(self) -> int:
        return len(self._ids)

    def put(self, value: Any) -> None:
        """Ids, of which the first are the prompt's."""
        ids = value.flatten().tolist()
        if not self.prompt_tokens:
            self.prompt_tokens = len(ids)
            return
        self._ids += ids
        text = self._text()
        is_cut = text.endswith(_CUT)
        self.pieces.append((time.monotonic_ns(), text[self._told : len(text) - is_cut]))
        if is_cut:
            self._told = max(self._told, len(text) - 1)
        else:
            self._context, self._ended = self._ended, len(self._ids)
            self._told = len(self._text())

    def end(self) -> None:
        """What is still cut off belongs to the last token."""
        if rest := self._text()[self._told :]:
            at, text = self.pieces[-1]
            self.pieces[-1] = at, text + rest

    def _text(self) -> str:
        ids = self._ids[self._context :]
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _inputs(tokenizer: Any, text: str) -> Any:
    """Ids and mask of one text, as the model is to be asked."""
    if not tokenizer.chat_template:
        return tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    messages = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )


def _check_length(tokens: int, config: Any) -> None:
    if not tokens:
        raise BackendError("the prompt is empty: the model has nothing to continue; write one")
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and tokens >= longest:
        raise BackendError(
            f"the prompt has {tokens:,} tokens, and the model takes fewer than {longest:,}; shorten it"
        )
