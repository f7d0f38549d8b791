"""The shapes of known networks, in torch's order of dimensions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

Shape = tuple[int, ...]


def resnet50() -> Iterator[tuple[str, Shape]]:
    """Iterate over the parameters of ResNet-50 (He et al. 2016), 25.6 million numbers."""

    def convolution(name: str, out: int, wide: int, size: int) -> Iterator[tuple[str, Shape]]:
        yield f"{name}.weight", (out, wide, size, size)
        yield from ((f"{name}.norm.{part}", (out,)) for part in ("weight", "bias"))

    yield from convolution("stem", 64, 3, 7)
    wide = 64
    for stage, (blocks, narrow) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True)):
        for block in range(blocks):
            name = f"stage{stage}.{block}"
            yield from convolution(f"{name}.conv1", narrow, wide, 1)
            yield from convolution(f"{name}.conv2", narrow, narrow, 3)
            yield from convolution(f"{name}.conv3", 4 * narrow, narrow, 1)
            if block == 0:
                yield from convolution(f"{name}.shortcut", 4 * narrow, wide, 1)
            wide = 4 * narrow
    yield from _dense("head", 1000, 2048)


def transformer_big() -> Iterator[tuple[str, Shape]]:
    """Iterate over the parameters of the big Transformer (Vaswani et al. 2017), 37,000 shared subwords."""
    yield "embedding", (37000, 1024)
    for side, attentions in (("encoder", 1), ("decoder", 2)):
        for layer in range(6):
            for k in range(attentions):
                for part in ("query", "key", "value", "out"):
                    yield from _dense(f"{side}.{layer}.attention{k}.{part}", 1024, 1024)
            yield from _dense(f"{side}.{layer}.up", 4096, 1024)
            yield from _dense(f"{side}.{layer}.down", 1024, 4096)
            for k in range(attentions + 1):
                yield from _norm(f"{side}.{layer}.norm{k}", 1024)


def bert_large() -> Iterator[tuple[str, Shape]]:
    """Iterate over the parameters of BERT-large (Devlin et al. 2019), 335 million numbers."""
    yield from (("words", (30522, 1024)), ("positions", (512, 1024)), ("types", (2, 1024)))
    yield from _norm("norm", 1024)
    for layer in range(24):
        for part in ("query", "key", "value", "out"):
            yield from _dense(f"{layer}.attention.{part}", 1024, 1024)
        yield from _dense(f"{layer}.up", 4096, 1024)
        yield from _dense(f"{layer}.down", 1024, 4096)
        yield from _norm(f"{layer}.norm0", 1024)
        yield from _norm(f"{layer}.norm1", 1024)
    yield from _dense("pooler", 1024, 1024)


def llama_8b() -> Iterator[tuple[str, Shape]]:
    """Iterate over the parameters of Llama 3.1 8B, 8.03 billion numbers."""
    yield "embedding", (128256, 4096)
    for layer in range(32):
        for part, out in (("query", 4096), ("key", 1024), ("value", 1024), ("out", 4096)):
            yield f"{layer}.attention.{part}", (out, 4096)
        yield from ((f"{layer}.{part}", (14336, 4096)) for part in ("gate", "up"))
        yield f"{layer}.down", (4096, 14336)
        yield from ((f"{layer}.norm{k}", (4096,)) for k in (0, 1))
    yield from (("norm", (4096,)), ("head", (128256, 4096)))


def _dense(name: str, out: int, wide: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (out, wide)
    yield f"{name}.bias", (out,)


def _norm(name: str, n: int) -> Iterator[tuple[str, Shape]]:
    yield from ((f"{name}.{part}", (n,)) for part in ("weight", "bias"))


NETWORKS: dict[str, Callable[[], Iterator[tuple[str, Shape]]]] = {
    "resnet50": resnet50,
    "transformer-big": transformer_big,
    "bert-large": bert_large,
    "llama-8b": llama_8b,
}
