"""Owned blocks on a double of CUDA tensors, with one rank: the CPU's bits, and no crossing that is not due."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
dist = pytest.importorskip("torch.distributed")

from matroot_optim.torch import SOAP, Shampoo  # noqa: E402
from optim.cuda_tensors import Count, CudaTensor, card, on_card  # noqa: E402
from optim.test_optim_cuda import OPTIONS, assert_same, parameters, same, train  # noqa: E402


@pytest.fixture(autouse=True)
def lone_rank(monkeypatch):
    """A world of one rank, whose collectives take tensors of the card as those of NCCL do."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

    def exchange(theirs, mine, *sizes, group):
        theirs.copy_(mine)

    monkeypatch.setattr(dist, "all_to_all_single", exchange)
    monkeypatch.setattr(dist, "all_gather", lambda found, mine, group: found[0].copy_(mine))
    monkeypatch.setattr(dist, "all_reduce", lambda x, group: None)
    with card(monkeypatch):
        yield
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (
            Shampoo,
            {"clip_norm": 1.0, "clip_rms": 0.5, "weight_decay": 0.1, "averaging": "ema", "cautious_update": True},
        ),
        (Shampoo, {"graft": "trust_ratio", "hyperball": True, "averaging": "schedule_free"}),
        (SOAP, {"state_dtype": "bfloat16", "clip_norm": 1.0, "decay": "l2", "weight_decay": 0.1}),
    ],
)
def test_the_bits_of_the_cpu(kind, options):
    want, got = parameters(same), parameters(on_card)
    options = {**OPTIONS, **options}
    first, opt = kind(want, shard=True, **options), kind(got, shard=True, **options)
    train(first, want, same)
    train(opt, got, on_card)
    assert_same(got, want)
    assert_same(opt.averaged_parameters(), first.averaged_parameters())
    assert all(isinstance(x, CudaTensor) for x in opt._current().arrays.values() if isinstance(x, torch.Tensor))
    saved = opt.state_dict()
    copies = [torch.nn.Parameter(on_card(torch.zeros(p.shape))) for p in got]
    again = kind(copies, shard=True, **options)
    again.load_state_dict(saved)
    for p, q in zip(copies, got, strict=True):
        p.data.copy_(q.data)
    for each, params in ((opt, got), (again, copies)):
        train(each, params, on_card, 5, 9)
    assert_same(copies, got)


def test_a_step_without_roots_comes_down_twice():
    """For the norms of what this rank has, and for those of all ranks, which go up in between."""
    params = parameters(on_card)
    options = {**OPTIONS, "refresh_every": 100, "refresh_growth": 0.0, "schedule": "interval", "start_step": 1}
    opt = Shampoo(params, shard=True, **options)
    train(opt, params, on_card, 1)
    for p in params:
        p.grad = on_card(torch.ones(p.shape))
    Count.reset()
    opt.step()
    assert (Count.up, Count.down, Count.waits) == (1, 2, 0)
