"""The optimisers: Muon for weight matrices, AdamW for the rest."""

from __future__ import annotations

from concurrent.futures import Executor

import torch
from torch import Tensor, nn

OUTERMOST = (
    "conv_in",
    "conv_out",
    "embedding",
    "quant_conv",
    "pos_embed",
    "transformer.proj_out",
)  # layers that AdamW takes although they are matrices


def orthogonalised(update: Tensor, iterations: int = 5) -> Tensor:
    """The nearest matrix to U Vᵀ of a (rows, columns) update, by the quintic Newton–Schulz iteration.

    Its polynomials act from the left, so they are multiplied up as small square matrices, and the wide weight is touched
    twice instead of ten times.
    """
    tall = update.shape[0] > update.shape[1]
    x = update.T if tall else update
    x = x / (x.norm() + 1e-7)
    gram = x @ x.T
    eye = torch.eye(len(x), device=x.device)
    total = None
    for i in range(iterations):
        factor = 3.4445 * eye - 4.7750 * gram + 2.0315 * gram @ gram
        total = factor if total is None else factor @ total
        if i + 1 < iterations:
            gram = factor @ gram @ factor
    x = total @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised (Jordan et al. 2024, "Muon"), for any weight of two or more dimensions.

    torch.optim.Muon takes matrices only and works in bfloat16, which CPUs without AMX run slowly.
    """

    def __init__(self, params, lr: float, momentum: float = 0.95, pool: Executor | None = None):
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self.run = map if pool is None else pool.map  # weights do not depend on each other

    @torch.no_grad()
    def step(self):
        """Take one step. Weights without a gradient stay."""
        for group in self.param_groups:
            large_first = sorted(group["params"], key=Tensor.numel, reverse=True)
            list(self.run(lambda p, group=group: self._move(p, group), large_first))

    @torch.no_grad()
    def _move(self, p: Tensor, group: dict):
        if p.grad is None:
            return
        momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
        momentum.lerp_(p.grad, 1 - group["momentum"])
        update = p.grad.lerp(momentum, group["momentum"])  # Nesterov
        update = update.flatten(1)  # (out, in·height·width)
        scale = max(1, update.shape[0] / update.shape[1]) ** 0.5
        p.add_(orthogonalised(update).reshape(p.shape), alpha=-group["lr"] * scale)


def optimizers(
    model: nn.Module, muon_lr: float, adam_lr: float, pool: Executor | None = None
) -> list[torch.optim.Optimizer]:
    """Muon for inner weight matrices, AdamW for embeddings, norms, biases and outermost layers."""
    matrices, rest = [], []
    for name, p in model.named_parameters():
        inner = p.ndim >= 2 and not any(o in name for o in OUTERMOST)
        (matrices if inner else rest).append(p)
    return [
        Muon(matrices, muon_lr, pool=pool),
        torch.optim.AdamW(rest, adam_lr, betas=(0.9, 0.99), weight_decay=0.0),
    ]
