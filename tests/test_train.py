"""Training can be killed at any step and goes on to the same weights."""

import contextlib
import itertools

import torch
from torch import nn

from p2p_helpers.toyland.training.fit import fit, learning_rate
from p2p_helpers.toyland.training.muon import Muon

SETTINGS = {
    "steps": 8,
    "muon_lr": 0.02,
    "adam_lr": 0.01,
    "warmup": 2,
    "decay_from": 0.5,
    "ema": 0.9,
    "workers": 2,
}


def run(folder, steps):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss_at(step, worker):
        if step >= steps:
            raise KeyboardInterrupt
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(2 * step + worker))
        return (model(x)[:, 0] - x.sum(1)).square().mean()

    return fit(model, loss_at, lambda average, path: None, SETTINGS, folder, "cpu")


def test_a_killed_run_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "p2p_helpers.toyland.training.fit.CHECKPOINT_SECONDS", -1
    )  # a checkpoint after every step
    whole = run(tmp_path / "whole", 99)
    with contextlib.suppress(KeyboardInterrupt):
        run(tmp_path / "killed", 5)
    resumed = run(tmp_path / "killed", 99)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_muon_steps_are_nearly_orthogonal():
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(16, 6, 3, 3))
    weight.grad = torch.randn(16, 6, 3, 3)
    Muon([weight], lr=1.0).step()
    values = torch.linalg.svdvals(weight.detach().flatten(1))
    assert 0.5 < values.min() and values.max() < 1.3


def test_learning_rate_rises_stays_and_falls():
    rates = [learning_rate(s, 100, 10, 0.5) for s in range(100)]
    assert rates[0] < 0.2 and rates[10:50] == [1.0] * 40 and rates[99] < 0.05
    assert all(a >= b for a, b in itertools.pairwise(rates[50:]))
