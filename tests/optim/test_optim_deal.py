"""Roots are dealt to ranks evenly."""

from __future__ import annotations

import numpy as np
import pytest

from matroot_optim.ranks.wire import HEAD_BYTES, Head
from matroot_optim.refresh.shares import Deal


def test_the_head_keeps_its_numbers():
    head = Head(b"0123456789abcdef", b"01234567", b"76543210", 7, 12, 3.5, 0.25, 1 << 3, "no room")
    assert Head.from_bytes(head.to_bytes()) == head
    long = Head(b"0123456789abcdef", b"01234567", b"76543210", 7, 12, 3.5, 0.25, 1 << 63, "x" * 1000)
    assert len(long.to_bytes()) == HEAD_BYTES
    assert long.has_failed(63)
    assert long.has_failed(100)
    assert not long.has_failed(62)


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_the_deal_is_near_to_the_best(ranks):
    from matroot_optim.refresh.phases import cost

    orders = np.random.default_rng(ranks).choice([64, 256, 576, 1024], 40 * ranks)
    deal = Deal(ranks)
    owners = deal(orders)
    assert (owners == Deal(ranks)(orders)).all()
    loads = np.bincount(owners, [cost(n) for n in orders], ranks)
    np.testing.assert_allclose(loads, deal.total)
    assert loads.max() <= 1.02 * max(loads.mean(), cost(1024))


def test_with_a_lag_the_sum_over_the_steps_is_dealt():
    late, now = Deal(4, lag=5), Deal(4)
    late_owners = [int(late([512])[0]) for _ in range(8)]
    assert late_owners == [int(now([512])[0]) for _ in range(8)] == [0, 1, 2, 3, 0, 1, 2, 3]
    late([1024])
    assert late([512, 512, 512]).tolist() == [1, 2, 3]
