"""Importance: the numeric properties of the Recurrent-KIF specification, by hand."""

import pytest
import torch

from clbench.learning.importance import Importance, quantile, top_mask

INNER = torch.tensor([5, 4, 3, 2, 1, 0.9, 0.8, 0.7, 0.6, 0.5])
OUTER = torch.tensor([0.5, 5, 0.6, 0.7, 0.8, 0.9, 1, 2, 3, 4])


def test_threshold_and_masks_of_the_fixture():
    for scores, ones in ((INNER, [0, 1]), (OUTER, [1, 9])):
        assert quantile(scores, 0.8).item() == pytest.approx(3.2)
        for strict in (True, False):
            assert top_mask(scores, 0.2, strict).nonzero().flatten().tolist() == ones


def test_mean_and_spread_of_a_constant():
    importance = Importance(0.85, spread=True)
    for _ in range(8):
        importance.update(torch.tensor([2.0]))
    mean, spread = 1.455019, 0.653977
    assert importance._mean.item() == pytest.approx(mean, abs=1e-6)
    assert importance._deviation.item() == pytest.approx(spread, abs=1e-6)
    assert importance.score.item() == pytest.approx(mean * spread, abs=1e-5)


def test_no_smoothing_keeps_the_last_batch_alone():
    importance = Importance(0.0)
    for value in (3.0, 7.0):
        importance.update(torch.tensor([value]))
    assert importance.score.item() == 7


def test_restart_and_nothing_observed():
    importance = Importance(0.5)
    importance.update(torch.ones(2))
    importance.restart()
    with pytest.raises(ValueError, match="no importance"):
        _ = importance.score


@pytest.mark.parametrize("n", [7, 10, 11, 100, 1003])
def test_number_of_ones(n):
    scores = torch.randperm(n, generator=torch.Generator().manual_seed(n)).double()
    assert top_mask(scores, 0.2, strict=True).sum() == n - 1 - int(0.8 * (n - 1) + 1e-9)
    assert not top_mask(torch.ones(n), 0.2, strict=True).any()
    assert top_mask(torch.ones(n), 0.2).all()


def test_mask_is_invariant_to_scale():
    for scale in (1e-4, 0.25, 3.0):
        assert torch.equal(top_mask(OUTER * scale, 0.2), top_mask(OUTER, 0.2))


def test_quantile_agrees_with_torch_and_has_no_limit():
    values = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    for part in (0.0, 0.1, 0.5, 0.8, 0.99, 1.0):
        assert quantile(values, part).item() == pytest.approx(torch.quantile(values, part).item(), abs=1e-6)
    long = torch.arange(17_000_000, dtype=torch.float64)  # torch.quantile stops at 2**24 = 16,777,216
    assert quantile(long, 0.8).item() == pytest.approx(0.8 * 16_999_999)


def test_one_threshold_per_part():
    scores = torch.tensor([1.0, 2, 3, 4, 5, 10, 20, 30, 40, 50])
    assert top_mask(scores, 0.2).nonzero().flatten().tolist() == [8, 9]
    halves = torch.arange(10).view(2, 5)
    assert top_mask(scores, 0.2, groups=[halves]).nonzero().flatten().tolist() == [4, 9]
    uneven = [torch.tensor([[0, 2], [4, 6]]), torch.tensor([[8, 1, 3, 5, 7, 9]])]  # parts in any order, of two sizes
    assert top_mask(scores, 0.2, groups=uneven).nonzero().flatten().tolist() == [2, 6, 8, 9]
