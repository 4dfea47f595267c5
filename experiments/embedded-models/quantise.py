"""What a quantised file does to the weights: ggml's blocks of 4 and 8 bits, rounded and expanded again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

BLOCK = 32


def fake_quantise(weight: Tensor, kind: str) -> Tensor:
    """The values that a `q8_0` or `q4_0` tensor holds for a weight [rows, columns]."""
    blocks = weight.reshape(-1, BLOCK)
    if kind == "q8_0":
        step = blocks.abs().amax(1, keepdim=True) / 127.0
        levels = torch.round(blocks / step.clamp_min(1e-30))
    elif kind == "q4_0":
        largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
        step = largest / -8.0
        levels = torch.floor(blocks / torch.where(step == 0, 1.0, step) + 8.5).clamp(0, 15) - 8.0
    else:
        raise ValueError(f"unknown quantisation {kind!r}: q8_0 or q4_0")
    return (levels * step.half().float()).reshape(weight.shape)


def quantisable(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that a quantised file holds in blocks: matrices whose rows divide into blocks."""
    return (p for p in model.parameters() if p.ndim == 2 and p.shape[1] % BLOCK == 0)


def quantise_(model: nn.Module, kind: str) -> None:
    """Replace the weights of the model by what a file of that kind holds."""
    with torch.no_grad():
        for parameter in quantisable(model):
            parameter.copy_(fake_quantise(parameter, kind))
