"""The optimiser of pretraining, against the one of torch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vtagent.training.pretraining.muon import Muon, orthogonal


def test_its_steps_are_those_of_torch_up_to_the_precision_of_bfloat16() -> None:
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((48, 32), (32, 48), (48, 32), (16, 16))]
    theirs = [nn.Parameter(matrix.detach().clone()) for matrix in ours]
    before = [matrix.detach().clone() for matrix in ours]
    optimizers = (
        Muon(ours, lr=1e-2, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(5):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for mine, other, start in zip(ours, theirs, before, strict=True):
        moved = (other - start).norm()
        assert moved > 0.1
        assert (mine - other).norm() < 0.02 * moved


def test_singular_values_come_near_one_and_vectors_stay() -> None:
    torch.manual_seed(1)
    matrices = torch.randn(3, 40, 24, dtype=torch.float64)
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonal(matrices)
    values = torch.linalg.svdvals(found)
    assert ((values > 0.5) & (values < 1.5)).all()
    aligned = u.mT @ found @ v.mT  # diagonal, if the vectors are the same
    assert (aligned - torch.diag_embed(aligned.diagonal(dim1=1, dim2=2))).abs().max() < 1e-6


def test_a_state_that_is_saved_goes_on_to_the_same_parameters() -> None:
    torch.manual_seed(2)
    gradients = [torch.randn(8, 6) for _ in range(4)]

    def run(stop: int | None) -> torch.Tensor:
        matrix = nn.Parameter(torch.zeros(8, 6))
        optimizer = Muon([matrix], lr=0.1, weight_decay=0.0)
        for step, gradient in enumerate(gradients):
            if step == stop:
                state = optimizer.state_dict()
                optimizer = Muon([matrix], lr=9.0, weight_decay=0.0)
                optimizer.load_state_dict(state)
            matrix.grad = gradient
            optimizer.step()
        return matrix.detach()

    assert torch.equal(run(None), run(2))


def test_a_parameter_that_is_no_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="matrices alone"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1, weight_decay=0.0)
