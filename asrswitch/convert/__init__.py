"""From a Hugging Face checkpoint to a `.bin` model file, quantised on the way; numpy only, memory bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from asrswitch.convert.atomic import atomic_output
from asrswitch.convert.checkpoint import StoredTensor, open_checkpoint
from asrswitch.convert.container import write_head, write_tensor
from asrswitch.convert.quantise import Bytes, RangeError, TensorType, encode, stored_type
from asrswitch.errors import AsrSwitchError, UsageError

__all__ = ["TYPES", "convert"]

TYPES: dict[str, TensorType] = {
    "f32": TensorType.F32,
    "f16": TensorType.F16,
    "q8_0": TensorType.Q8_0,
    "q4_0": TensorType.Q4_0,
    "q4_1": TensorType.Q4_1,
    "q4_0_16x4": TensorType.Q4_0_16X4,
}

# Values in work at a time, 4 MiB as float32; where rows that are stored together have more, it is those.
_PIECE_ELEMENTS = 1 << 20


def convert(
    checkpoint_dir: Path,
    output: Path,
    type: str,
    progress: Callable[[int, int, str], None] | None = None,
) -> None:
    """Write the Qwen3-ASR checkpoint in `checkpoint_dir` as the model file `output`.

    `type` is a key of TYPES and says how matrices are stored. `output` appears whole or not at all.
    `progress` is called after each piece with the bytes of tensor data written, their total, and the
    tensor's name.

    Raises UsageError for an unknown type, AsrSwitchError for a checkpoint at fault or an output that cannot
    be written; each message is one line that names the file.
    """
    if type not in TYPES:
        raise UsageError(f"unknown type {type}; choose one of {', '.join(TYPES)}")
    wanted = TYPES[type]
    with open_checkpoint(checkpoint_dir) as checkpoint, atomic_output(output) as file:
        plan = [
            (tensor, stored_type(tensor.name, tensor.info.shape, wanted)) for tensor in checkpoint.tensors
        ]
        total = sum(stored.nbytes(tensor.info.elements) for tensor, stored in plan)
        done = 0

        def pieces(tensor: StoredTensor, stored: TensorType) -> Iterator[Bytes]:
            nonlocal done
            columns = tensor.info.shape[-1]
            together = stored.rows_together * columns
            elements = max(1, _PIECE_ELEMENTS // together) * together
            for values in tensor.source.blocks(tensor.info, elements):
                try:
                    piece = encode(values.reshape(-1, columns), stored)
                except RangeError as error:
                    raise AsrSwitchError(
                        f"{tensor.source.path}: tensor {tensor.info.name} cannot be stored as"
                        f" {stored.name.lower()}: {error}"
                    ) from None
                yield piece
                done += piece.nbytes
                if progress is not None:
                    progress(done, total, tensor.name)

        write_head(
            file, checkpoint.metadata, checkpoint.config, wanted, checkpoint.vocabulary, checkpoint.merges
        )
        for tensor, stored in plan:
            write_tensor(file, tensor.name, tensor.info.shape, stored, pieces(tensor, stored))
