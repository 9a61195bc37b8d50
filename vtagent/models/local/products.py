"""Linear layers over few rows on a CPU, each by the way that is fastest there: measured once, then kept.

A decode step multiplies a large matrix by as many vectors as there are rows. The ways to write it differ in speed by
several times, and not alike on all processors: some matrix libraries repack the matrix for two rows, which costs more
than the product; others do so from sixteen on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import linear

_LARGE = 2**21
"""Elements of a matrix that does not fit a core's cache. Smaller ones are left to torch."""

_MOST_ROWS = 64
"""With more rows the product is bound by arithmetic, and all ways are alike."""

_TRIES = 3
"""How often each way is timed; the fastest counts, since other programs only ever make it slower."""

Product = Callable[[torch.Tensor, torch.nn.Linear], torch.Tensor]


def together(x: torch.Tensor, module: torch.nn.Linear) -> torch.Tensor:
    """The product as torch's own module computes it.

    Args:
        x: (rows, in), floating point.
        module: The layer.

    Returns:
        (rows, out), in the dtype of `x`.
    """
    return linear(x, module.weight, module.bias)


def one_by_one(x: torch.Tensor, module: torch.nn.Linear) -> torch.Tensor:
    """Each row by itself, as `together`."""
    return torch.cat([linear(row, module.weight, module.bias) for row in x.split(1)])


def transposed(x: torch.Tensor, module: torch.nn.Linear) -> torch.Tensor:
    """The matrix from the left, as `together`."""
    out = (module.weight @ x.t()).t()
    return out if module.bias is None else out + module.bias


class Products:
    """Chooses a way for each size of matrix and number of rows.

    Args:
        ways: Candidates.
    """

    def __init__(self, ways: tuple[Product, ...] = (together, one_by_one, transposed)) -> None:
        self._ways = ways
        self._best: dict[tuple[int, ...], Product] = {}

    def __call__(self, module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        """Apply a linear layer.

        Args:
            module: The layer; whatever is not a plain large `Linear` on a CPU (adapters, quantised layers) is called.
            x: (rows, queries, in), floating point.

        Returns:
            (rows, queries, out), in the dtype of the weights.
        """
        rows = x.shape[0] * x.shape[1]
        plain = type(module) is torch.nn.Linear and x.device.type == "cpu" and not module._forward_hooks
        if not plain or not 1 < rows <= _MOST_ROWS:
            return self._call(module, x)
        assert isinstance(module, torch.nn.Linear)
        if module.weight.numel() < _LARGE or module._forward_pre_hooks:
            return self._call(module, x)
        flat = x.flatten(0, 1)
        key = (*module.weight.shape, rows)
        if key not in self._best:
            self._best[key] = min(self._ways, key=partial(_seconds, x=flat, module=module))
        out: torch.Tensor = self._best[key](flat, module).unflatten(0, x.shape[:2])
        return out

    @staticmethod
    def _call(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = module(x)
        return out


def _seconds(way: Product, *, x: torch.Tensor, module: torch.nn.Linear) -> float:
    def once() -> float:
        begin = time.perf_counter()
        way(x, module)
        return time.perf_counter() - begin

    return min(once() for _ in range(_TRIES))
