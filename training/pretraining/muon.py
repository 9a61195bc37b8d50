"""Muon in the precision that the machine multiplies fast.

`torch.optim.Muon` orthogonalises in bfloat16 always. A CPU without bfloat16 in hardware then spends fourteen seconds a
step on four million parameters, fifty times what float32 takes. It also takes matrix after matrix, where those of one
shape can share a product.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic Newton-Schulz step, as in `torch.optim.Muon`: the steepest at zero."""
_STEPS = 5
_MOMENTUM = 0.95


class Muon(Optimizer):
    """Steps along the orthogonal part of the momentum, with Nesterov's look ahead.

    The learning rate is scaled by 0.2 √max(rows, columns), so that an update is as large as AdamW's (arXiv:2502.16982,
    section 2.2).

    Args:
        matrices: The parameters, each of two axes.
        lr: The learning rate before it is scaled.
        weight_decay: Share of a parameter that a step at learning rate 1 takes away.
        dtype: The dtype in which the momentum is orthogonalised.

    Raises:
        ValueError: A parameter has another number of axes.
    """

    def __init__(
        self, matrices: Iterable[Parameter], *, lr: float, weight_decay: float, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})
        self._dtype = dtype
        if any(matrix.ndim != 2 for group in self.param_groups for matrix in group["params"]):
            raise ValueError("Muon optimises matrices alone: give parameters of another shape to another optimiser")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step with the gradients that stand in the parameters."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            of_shape: dict[torch.Size, list[Parameter]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    of_shape[matrix.shape].append(matrix)
            for shape, matrices in of_shape.items():
                updates = orthogonal(torch.stack([self._ahead(matrix) for matrix in matrices]).to(self._dtype))
                rate = group["lr"] * 0.2 * sqrt(max(shape))
                for matrix, update in zip(matrices, updates, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)
        return loss

    def _ahead(self, matrix: Parameter) -> Tensor:
        """Move the momentum of a matrix towards its gradient, and return where Nesterov looks."""
        grad = matrix.grad
        assert grad is not None
        momentum: Tensor = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
        momentum.lerp_(grad, 1 - _MOMENTUM)
        return grad.lerp(momentum, _MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """Bring all singular values near one by five Newton-Schulz steps; the singular vectors stay.

    Args:
        matrices: (count, rows, columns), floating point.

    Returns:
        As `matrices`.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value is above one
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
