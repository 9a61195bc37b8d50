"""Adapters instead of weights, and an engine with weights of its own: rollouts are still samples of the policy."""

from __future__ import annotations

from concurrent.futures import Future
from os import PathLike
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import Qwen3VLForConditionalGeneration

from tests.grpo_runs import KNOWN_WARNINGS, base, logged, parameters, settings, trainer
from vtagent.models.engine import Generation, ReloadableEngine, Request
from vtagent.models.local.engine import TransformersEngine
from vtagent.training.data import RenderedPages
from vtagent.training.grpo import save_policy
from vtagent.training.rewards import build_grader
from vtagent.training.rl import weights as serving
from vtagent.training.rl.trainer import GraphGRPOTrainer

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]

ADAPTERS = {"r": 4, "lora_alpha": 64, "target_modules": r".*language_model.*(q_proj|v_proj|up_proj)"}


class Server(ReloadableEngine):
    """Stands in for a vLLM server: it samples from the checkpoint that it was last told to load."""

    context = 4096

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.followed: list[str] = []
        self._engine: TransformersEngine | None = None

    def reload(self, path: str | PathLike[str], *, version: str | None = None) -> str:
        self._engine = TransformersEngine.from_pretrained(path)
        self.loaded.append(str(path))
        return f"version {len(self.loaded)}"

    def follow(self, version: str) -> None:
        self.followed.append(version)

    def submit(self, request: Request) -> Future[Generation]:
        assert self._engine is not None
        return self._engine.submit(request)

    def close(self) -> None:
        assert self._engine is not None
        self._engine.close()


def test_adapters_are_trained_and_sampled_from(tmp_path: Path) -> None:
    run = trainer(
        tmp_path, peft_config=LoraConfig(**ADAPTERS), max_steps=2, learning_rate=1e-2, beta=0.01, check_exactness=True
    )
    before = parameters(run)
    run.train()
    assert max(logged(run, "exactness/largest_gap")) < 1e-4
    assert logged(run, "kl")[0] < 1e-6 < logged(run, "kl")[1]  # the reference is the policy without its adapters
    changed = {name for name, value in parameters(run).items() if not value.equal(before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    trained = parameters(run)
    save_policy(run, tmp_path / "policy", half=False)
    assert all(value.equal(trained[name]) for name, value in parameters(run).items())  # merged in the copy alone
    saved = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "policy").eval()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        ours, theirs = run.model.eval()(input_ids=ids).logits, saved(input_ids=ids).logits
        with run.model.disable_adapter():
            assert not torch.allclose(run.model(input_ids=ids).logits, theirs, atol=1e-2)
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("adapters", [False, True])
def test_an_engine_with_weights_of_its_own_is_given_the_new_ones_before_each_step(
    tmp_path: Path, adapters: bool
) -> None:
    model, processor = base()
    args = settings(tmp_path, max_steps=2, check_exactness=True, learning_rate=1e-2 if adapters else 1e-4)
    server = Server()
    run = GraphGRPOTrainer(
        model,
        args,
        RenderedPages(16, seed=3),
        processor,
        build_grader("exact"),
        engine=server,
        peft_config=LoraConfig(**ADAPTERS) if adapters else None,
    )
    run.train()
    assert len(server.loaded) == 2
    assert server.followed == []  # there is one process only
    assert max(logged(run, "exactness/largest_gap")) < 1e-4
    assert logged(run, "sampling/importance_sampling_ratio/mean") == pytest.approx([1.0, 1.0], abs=1e-3)


class Process:
    """Accelerate's view of one process of several that all hold the whole model."""

    def __init__(self, rank: int) -> None:
        self.is_main_process = rank == 0

    def get_state_dict(self, model: Any) -> dict[str, torch.Tensor]:
        weights: dict[str, torch.Tensor] = model.state_dict()
        return weights

    def unwrap_model(self, model: Any) -> Any:
        return model


def test_one_process_writes_and_loads_the_weights_and_the_others_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str | None] = []

    def broadcast(given: list[str | None]) -> None:
        if not told:  # the main process, which comes first
            told.extend(given)
        given[:] = told

    monkeypatch.setattr(serving, "broadcast_object_list", broadcast)
    model, processor = base()
    servers = [Server(), Server(), Server()]
    for rank, server in enumerate(servers):
        folder = tmp_path / str(rank)
        serving.hand_over(server, model, processor, Process(rank), folder)
    assert [server.loaded for server in servers] == [[str(tmp_path / "0" / "served")], [], []]
    assert [server.followed for server in servers] == [[], ["version 1"], ["version 1"]]
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    servers[0].close()
