"""Linear layers over few rows: the fastest way is chosen once, and all ways give the same product."""

from __future__ import annotations

import pytest
import torch

from vtagent.models.local import products
from vtagent.models.local.products import Products, one_by_one, together, transposed


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 2, 5, 64, 65])
def test_every_way_gives_the_product(rows: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_LARGE", 0)
    module = torch.nn.Linear(40, 30, bias=bias)
    x = torch.randn(rows, 1, 40)
    for way in (together, one_by_one, transposed):
        out = Products((way,))(module, x)
        assert out.shape == (rows, 1, 30)
        assert torch.allclose(out, module(x), atol=1e-5)


def test_the_fastest_way_is_measured_once_for_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_LARGE", 0)
    seconds: dict[tuple[products.Product, int], float] = {
        (together, 2): 3.0,
        (one_by_one, 2): 1.0,
        (together, 8): 1.0,
        (one_by_one, 8): 4.0,
    }
    measured = []

    def measure(way: products.Product, *, x: torch.Tensor, module: torch.nn.Linear) -> float:
        measured.append((way, len(x)))
        return seconds[way, len(x)]

    monkeypatch.setattr(products, "_seconds", measure)
    used = Products((together, one_by_one))
    module = torch.nn.Linear(4, 4)
    for rows in (2, 8, 2, 8):
        used(module, torch.randn(rows, 1, 4))
    assert sorted(rows for _, rows in measured) == [2, 2, 8, 8]
    assert used._best == {(4, 4, 2): one_by_one, (4, 4, 8): together}


def test_what_is_not_a_plain_large_layer_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(x: torch.Tensor, module: torch.nn.Linear) -> torch.Tensor:
        raise AssertionError

    used = Products((never,))
    small = torch.nn.Linear(4, 4)
    assert torch.equal(used(small, torch.ones(2, 1, 4)), small(torch.ones(2, 1, 4)))
    monkeypatch.setattr(products, "_LARGE", 0)

    class Adapted(torch.nn.Linear):
        """A layer that does more."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    adapted = Adapted(4, 4)
    assert torch.equal(used(adapted, torch.ones(2, 1, 4)), adapted(torch.ones(2, 1, 4)))
    hooked = torch.nn.Linear(4, 4)
    hooked.register_forward_hook(lambda module, args, out: out + 1)
    assert torch.equal(used(hooked, torch.ones(2, 1, 4)), hooked(torch.ones(2, 1, 4)))
