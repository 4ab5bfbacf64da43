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


def orthogonalise(matrices: Tensor) -> Tensor:
    """Matrices (..., M, N) float32 with the same singular vectors and singular values of about 1.

    Those below about 1e-3 of its Frobenius norm stay small. A zero matrix stays zero.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if tall else matrices
    wide = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-12)
    a, b, c = _QUINTIC
    # Every factor is a polynomial of the Gram matrix, so that all commute with it.
    gram = wide @ wide.mT
    product = identity = torch.eye(gram.shape[-1], device=gram.device)
    for _ in range(_ROUNDS):
        factor = a * identity + b * gram + c * (gram @ gram)
        product = factor @ product
        gram = factor @ gram @ factor
    wide = product @ wide
    return wide.mT if tall else wide


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
            # Matrices of one size are brought through together: a GPU would else wait for calls.
            sizes: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.grad is not None:
                    sizes.setdefault(weight.flatten(1).shape, []).append(weight)
            for size, weights in sizes.items():
                for weight in weights:
                    if not self.state[weight]:
                        self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
                gradients = [weight.grad for weight in weights]
                momentum = [self.state[weight]["momentum_buffer"] for weight in weights]
                torch._foreach_lerp_(momentum, gradients, 1.0 - group["momentum"])
                ahead = torch._foreach_lerp(gradients, momentum, group["momentum"])
                changes = orthogonalise(torch.stack([each.flatten(1) for each in ahead]))
                changes = [c.view(w.shape) for c, w in zip(changes, weights, strict=True)]
                step = group["lr"] * _ADAM_SIZE * max(size) ** 0.5
                torch._foreach_mul_(weights, 1.0 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(weights, changes, alpha=-step)
