"""Pre-norm Transformers: an encoder-decoder and a stack of blocks, with separate matrices for q, k, v and output."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head attention; q, k, v and the output are four square matrices."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Any, memory: Any, mask: Any = None, causal: bool = False) -> Any:
        q, k, v = (self._split(f(y)) for f, y in ((self.query, x), (self.key, memory), (self.value, memory)))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        return self.output(attended.transpose(1, 2).flatten(2))

    def _split(self, x: Any) -> Any:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Self-attention, attention to a memory where there is one, and two dense layers, each with a residual."""

    def __init__(self, width: int, heads: int, dropout: float, memory: bool = False) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.cross = (nn.LayerNorm(width), Attention(width, heads)) if memory else (None, None)
        self.norm3, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Any, *, mask: Any = None, causal: bool = False, memory: Any = None, seen: Any = None) -> Any:
        y = self.norm1(x)
        x = x + self.dropout(self.attention(y, y, mask, causal))
        if self.cross is not None:
            x = x + self.dropout(self.cross(self.norm2(x), memory, seen))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm3(x)))))


def embedding(size: int, width: int) -> Any:
    """A table whose rows have norm one in the mean, so that a tied output layer begins with small logits."""
    table = nn.Embedding(size, width)
    nn.init.normal_(table.weight, std=width**-0.5)
    return table


def positions(length: int, width: int) -> Any:
    """Sinusoids, (length, width)."""
    angle = torch.arange(length)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(1e4) / width))
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


class LanguageModel(nn.Module):
    """Logits of every position; the output layer is the embedding (Press and Wolf 2017)."""

    def __init__(self, words: int, width: int, heads: int, depth: int, length: int, dropout: float, causal: bool):
        super().__init__()
        self.embedding, self.causal, self.scale = embedding(words, width), causal, width**0.5
        self.register_buffer("positions", positions(length, width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Any) -> Any:
        h = self.embedding(x) * self.scale + self.positions[: x.shape[1]]
        for block in self.blocks:
            h = block(h, causal=self.causal)
        return self.norm(h) @ self.embedding.weight.T


class Translator(nn.Module):
    """Encoder and decoder (Vaswani et al. 2017); the output layer is the target's embedding."""

    def __init__(self, source: int, target: int, width: int, heads: int, depth: int, length: int, dropout: float):
        super().__init__()
        self.source, self.target, self.scale = embedding(source, width), embedding(target, width), width**0.5
        self.register_buffer("positions", positions(length, width), persistent=False)
        self.encoder = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.decoder = nn.ModuleList(Block(width, heads, dropout, memory=True) for _ in range(depth))
        self.norm_source, self.norm_target = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, source: Any, target: Any) -> Any:
        """Logits (batch, length, words) of what follows each word of `target`; 0 is padding."""
        seen = (source != 0)[:, None, None, :]
        memory = self.source(source) * self.scale + self.positions[: source.shape[1]]
        for block in self.encoder:
            memory = block(memory, mask=seen)
        memory = self.norm_source(memory)
        h = self.target(target) * self.scale + self.positions[: target.shape[1]]
        for block in self.decoder:
            h = block(h, causal=True, memory=memory, seen=seen)
        return self.norm_target(h) @ self.target.weight.T
