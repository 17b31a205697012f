"""S and T of a word swap."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import p2p_helpers as p2p


@pytest.mark.parametrize(
    ("schedule", "steps", "on"),
    [(0.8, 50, range(40)), (0.4, 50, range(20)), (1.0, 50, range(50)), (0.0, 50, ()), ((0.2, 0.8), 50, range(10, 40)), (1, 1, range(1))],
)
def test_schedules_as_published(schedule, steps, on):
    assert p2p.active_steps(schedule, steps).nonzero().flatten().tolist() == list(on)


@given(st.floats(0, 1), st.integers(1, 100))
def test_a_longer_schedule_never_loses_a_step(end, steps):
    shorter, longer = p2p.active_steps(end / 2, steps), p2p.active_steps(end, steps)
    assert (longer | ~shorter).all()


def test_replace_moves_maps_while_on_and_keeps_the_targets_own_afterwards(tokenizer):
    s, t = p2p.Replace(cross_steps=0.5).matrices(tokenizer, "a cat", "a snowman", 10)
    mapping, eye = p2p.replacement_matrix(tokenizer, "a cat", "a snowman"), torch.eye(tokenizer.model_max_length)
    for step in range(10):
        on = step < 5
        torch.testing.assert_close(s[step], mapping * on)
        torch.testing.assert_close(t[step], eye * (not on))
