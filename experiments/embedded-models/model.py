"""Qwen3-ASR in torch, for training; parameters are named as in the official checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

import tokenizer

CHUNK_FRAMES = 100  # 2 · n_window
CHUNK_TOKENS = 13
WINDOW_TOKENS = 104  # 8 s


@dataclass(frozen=True)
class Sizes:
    """The widths and depths that differ between models."""

    channels: int
    encoder_width: int
    encoder_layers: int
    encoder_ffn: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    head_dim: int = 64
    vocabulary: int = tokenizer.VOCABULARY_SIZE
    tied: bool = True

    @property
    def encoder_heads(self) -> int:
        """Encoder heads are 64 wide."""
        return self.encoder_width // 64


PRESETS = {
    "small": Sizes(32, 128, 3, 512, 128, 2, 4, 2, 384),
    "large": Sizes(32, 192, 4, 576, 192, 3, 4, 2, 384),
}


def audio_tokens(frames: int) -> int:
    """Tokens of a clip of so many mel frames."""
    return CHUNK_TOKENS * (frames // CHUNK_FRAMES) + math.ceil(frames % CHUNK_FRAMES / 8)


def sinusoids(width: int) -> Tensor:
    """Positions of the tokens in a chunk, [13, width]."""
    rate = torch.exp(torch.arange(width // 2) * (-math.log(10_000) / (width // 2 - 1)))
    angles = torch.arange(CHUNK_TOKENS)[:, None] * rate
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention of [B, H, N, head_dim] under a mask that is true where it is allowed.

    Written out because torch's fused kernel takes twice as long for the backward pass at these lengths.
    """
    scores = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).masked_fill(~mask, float("-inf"))
    attended: Tensor = scores.softmax(-1).to(v.dtype) @ v
    return attended


class EncoderAttention(nn.Module):
    """Biased self-attention confined by a mask."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        width = sizes.encoder_width
        self.heads = sizes.encoder_heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """x [B, N, D], mask [B, 1, N, N] true where attention is allowed."""
        q, k, v = (
            part(x).unflatten(-1, (self.heads, 64)).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = attend(q, k, v, mask)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class EncoderLayer(nn.Module):
    """Pre-LayerNorm block."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.self_attn = EncoderAttention(sizes)
        self.self_attn_layer_norm = nn.LayerNorm(sizes.encoder_width)
        self.fc1 = nn.Linear(sizes.encoder_width, sizes.encoder_ffn)
        self.fc2 = nn.Linear(sizes.encoder_ffn, sizes.encoder_width)
        self.final_layer_norm = nn.LayerNorm(sizes.encoder_width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[B, N, D] to the same shape."""
        x = x + self.self_attn(self.self_attn_layer_norm(x), mask)
        out: Tensor = x + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x))))
        return out


class AudioTower(nn.Module):
    """Convolutional stem, windowed encoder, projector."""

    positions: Tensor

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        channels, width = sizes.channels, sizes.encoder_width
        self.conv2d1 = nn.Conv2d(1, channels, 3, 2, 1)
        self.conv2d2 = nn.Conv2d(channels, channels, 3, 2, 1)
        self.conv2d3 = nn.Conv2d(channels, channels, 3, 2, 1)
        self.conv_out = nn.Linear(channels * 16, width, bias=False)
        self.layers = nn.ModuleList(EncoderLayer(sizes) for _ in range(sizes.encoder_layers))
        self.ln_post = nn.LayerNorm(width)
        self.proj1, self.proj2 = nn.Linear(width, width), nn.Linear(width, sizes.width)
        self.register_buffer("positions", sinusoids(width), persistent=False)

    def forward(self, mels: list[Tensor]) -> Tensor:
        """Log-mels [T, 128] of several clips to their tokens in order, [all tokens, decoder width]."""
        counts = [audio_tokens(len(mel)) for mel in mels]
        chunk_counts = [math.ceil(len(mel) / CHUNK_FRAMES) for mel in mels]
        padded = torch.cat(
            [
                functional.pad(mel, (0, 0, 0, n * CHUNK_FRAMES - len(mel)))
                for mel, n in zip(mels, chunk_counts, strict=True)
            ]
        )
        x = padded.view(-1, CHUNK_FRAMES, 128).transpose(1, 2)[:, None]  # [chunks, 1, 128, 100]
        for convolution in (self.conv2d1, self.conv2d2, self.conv2d3):
            x = functional.gelu(convolution(x))
        x = self.conv_out(x.permute(0, 3, 1, 2).flatten(2)) + self.positions  # [chunks, 13, D]
        rows = nn.utils.rnn.pad_sequence(
            [clip.flatten(0, 1) for clip in x.split(chunk_counts)], batch_first=True
        )  # [B, N, D]
        index = torch.arange(rows.shape[1])
        valid = index < torch.tensor(counts)[:, None]
        window = index // WINDOW_TOKENS
        # A padded row attends to its own window too, so that no row of the softmax is empty.
        mask = (window[:, None] == window) & (valid[:, None, :] | ~valid[:, :, None])
        for layer in self.layers:
            rows = layer(rows, mask[:, None])
        out: Tensor = self.proj2(functional.gelu(self.proj1(self.ln_post(rows[valid]))))
        return out


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, half-split; x [B, H, N, head_dim]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class DecoderAttention(nn.Module):
    """Grouped-query causal attention with normalised queries and keys."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.head_dim = sizes.head_dim
        self.q_proj = nn.Linear(sizes.width, sizes.heads * sizes.head_dim, bias=False)
        self.k_proj = nn.Linear(sizes.width, sizes.kv_heads * sizes.head_dim, bias=False)
        self.v_proj = nn.Linear(sizes.width, sizes.kv_heads * sizes.head_dim, bias=False)
        self.o_proj = nn.Linear(sizes.heads * sizes.head_dim, sizes.width, bias=False)
        self.q_norm = nn.RMSNorm(sizes.head_dim, 1e-6)
        self.k_norm = nn.RMSNorm(sizes.head_dim, 1e-6)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, N, H] to the same shape."""
        q, k, v = (
            part(x).unflatten(-1, (-1, self.head_dim)) for part in (self.q_proj, self.k_proj, self.v_proj)
        )
        q = rotate(self.q_norm(q).transpose(1, 2), cos, sin)
        k = rotate(self.k_norm(k).transpose(1, 2), cos, sin)
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.transpose(1, 2).repeat_interleave(groups, 1)
        attended = attend(q, k, v, torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril())
        out: Tensor = self.o_proj(attended.transpose(1, 2).flatten(2))
        return out


class DecoderMlp(nn.Module):
    """SwiGLU."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(sizes.width, sizes.ffn, bias=False)
        self.up_proj = nn.Linear(sizes.width, sizes.ffn, bias=False)
        self.down_proj = nn.Linear(sizes.ffn, sizes.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, H] to the same shape."""
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class DecoderLayer(nn.Module):
    """Pre-RMSNorm block of Qwen3."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.self_attn = DecoderAttention(sizes)
        self.mlp = DecoderMlp(sizes)
        self.input_layernorm = nn.RMSNorm(sizes.width, 1e-6)
        self.post_attention_layernorm = nn.RMSNorm(sizes.width, 1e-6)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """[B, N, H] to the same shape."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Decoder(nn.Module):
    """Qwen3 without its output matrix."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.head_dim = sizes.head_dim
        self.embed_tokens = nn.Embedding(sizes.vocabulary, sizes.width)
        self.layers = nn.ModuleList(DecoderLayer(sizes) for _ in range(sizes.layers))
        self.norm = nn.RMSNorm(sizes.width, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Embedded rows [B, N, H] to normalised states of the same shape."""
        rate = 1e6 ** (-torch.arange(0, self.head_dim, 2) / self.head_dim)
        angles = torch.arange(x.shape[1])[:, None] * rate
        cos, sin = angles.cos(), angles.sin()
        for layer in self.layers:
            x = layer(x, cos, sin)
        out: Tensor = self.norm(x)
        return out


class Qwen3Asr(nn.Module):
    """The whole model; parameter names are those of the checkpoint without `thinker.`."""

    def __init__(self, sizes: Sizes, audio_pad: int | None = None) -> None:
        super().__init__()
        self.sizes = sizes
        self.audio_pad = tokenizer.added_ids()["<|audio_pad|>"] if audio_pad is None else audio_pad
        self.audio_tower = AudioTower(sizes)
        self.model = Decoder(sizes)
        self.lm_head = nn.Linear(sizes.width, sizes.vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(
                    module.weight,
                    std=0.02 if isinstance(module, nn.Embedding) else module.weight.shape[1] ** -0.5,
                )
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        if sizes.tied:
            nn.init.normal_(self.model.embed_tokens.weight, std=sizes.width**-0.5)
            nn.init.normal_(self.model.embed_tokens.weight, std=sizes.width**-0.5)
            self.lm_head.weight = self.model.embed_tokens.weight

    def states(self, ids: Tensor, audio: Tensor) -> Tensor:
        """Final states [B, N, H] for ids [B, N] whose place holders take the rows of `audio` in order."""
        rows = self.model.embed_tokens(ids)
        places = (ids == self.audio_pad).unsqueeze(-1)
        out: Tensor = self.model(rows.masked_scatter(places, audio.to(rows.dtype)))
        return out
