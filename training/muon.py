# SPDX-License-Identifier: GPL-3.0-or-later
"""Muon, the optimiser of the network's convolutions.

A step goes along the momentum with all its singular values brought to about 1, so that every
direction of a weight learns at about the same pace. Jordan et al. 2024, "Muon: an optimizer for
hidden layers in neural networks"; scaled to the size of an Adam step as in Liu et al. 2025,
arXiv 2502.16982, section 2.2. ``torch.optim.Muon`` takes matrices alone and computes in bf16, which
is slow on CPUs; here the iteration runs on the Gram matrix, at less than half the cost.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

# Coefficients of Jordan et al.'s quintic: singular values come to lie between about 0.7 and 1.2.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_ADAM_SIZE = 0.2  # root mean square of the entries of a usual Adam step, over its learning rate


def orthogonalise(matrix: Tensor) -> Tensor:
    """A matrix (M, N) float32 with the same singular vectors and singular values of about 1.

    Those below about 1e-3 of its Frobenius norm stay small. A zero matrix stays zero.
    """
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-12)
    a, b, c = _QUINTIC
    # Every factor is a polynomial of the Gram matrix, so that all commute with it.
    gram = wide @ wide.T
    product = identity = torch.eye(len(gram))
    for _ in range(_ROUNDS):
        factor = a * identity + b * gram + c * (gram @ gram)
        product = factor @ product
        gram = factor @ gram @ factor
    wide = product @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised; decoupled weight decay. Weights have 2 or more axes: the
    first is the matrix's rows, the others together its columns."""

    def __init__(
        self, weights: Iterable[Tensor], lr: float, weight_decay: float, momentum: float = 0.95
    ) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                momentum = state["momentum_buffer"]
                momentum.lerp_(weight.grad, 1.0 - group["momentum"])
                ahead = weight.grad.lerp(momentum, group["momentum"]).flatten(1)
                size = _ADAM_SIZE * max(ahead.shape) ** 0.5
                change = orthogonalise(ahead).view(weight.shape)
                weight.mul_(1.0 - group["lr"] * group["weight_decay"])
                weight.add_(change, alpha=-group["lr"] * size)
