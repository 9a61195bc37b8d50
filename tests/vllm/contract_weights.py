"""Two training steps with a real server: after each, every reply comes from the new policy alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.rescoring import rescored
from tests.vllm.contract_policy import TOLERANCE, requests
from tests.vllm.server import VLLMServer
from vtagent.errors import ModelError
from vtagent.models.chat import ChatVLM
from vtagent.models.engine import Generation, Request
from vtagent.models.local.engine import TransformersEngine
from vtagent.models.placeholders import expand
from vtagent.models.vllm.engine import VLLMEngine
from vtagent.models.vllm.weights import save_for_server
from vtagent.training.data import rendered


@pytest.fixture(scope="module")
def asked(local: ChatVLM) -> list[Request]:
    """Sampled, so that what is compared is not the one reply that both policies agree on."""
    return requests(local, list(rendered(12, seed=7)), temperature=1.0, seed=1)


@dataclass(frozen=True)
class Step:
    """A policy at one point of a training: its folder, and an engine here that is the yardstick for it."""

    folder: Path
    engine: TransformersEngine


@pytest.fixture(scope="module")
def steps(
    yardstick: TransformersEngine, asked: Sequence[Request], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Step]]:
    """The policy, and what two steps of gradient ascent on replies of its own make of it."""
    made = [Step(save_for_server(yardstick.model, tmp_path_factory.mktemp("steps") / "step-0"), yardstick)]
    model = copy.deepcopy(yardstick.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    for number in (1, 2):
        model.train()
        loss = -torch.stack([_likelihood(model, yardstick, request) for request in asked[:2]]).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        folder = save_for_server(model.eval(), tmp_path_factory.mktemp("steps") / f"step-{number}")
        made.append(Step(folder, TransformersEngine(copy.deepcopy(model), yardstick.processor)))
    yield made
    for step in made[1:]:
        step.engine.close()


def _likelihood(model: Any, engine: TransformersEngine, request: Request) -> torch.Tensor:
    """Log-likelihood of a reply, with a gradient."""
    processor = engine.processor
    [reply] = engine.generate([request])
    ids = expand([*request.token_ids, *reply.token_ids], request.images, processor.vision, processor.image_token_id)
    pixels, grids = processor.pixels([image.pixels for image in request.images])
    tensor = torch.tensor([ids])
    kinds = torch.eq(tensor, processor.image_token_id).int()
    logits = model(input_ids=tensor, mm_token_type_ids=kinds, pixel_values=pixels, image_grid_thw=grids).logits[0]
    size = len(reply.token_ids)
    logprobs = logits[-size - 1 : -1].log_softmax(-1)
    likelihood: torch.Tensor = logprobs.gather(-1, torch.tensor(reply.token_ids)[:, None]).sum()
    return likelihood


@pytest.fixture(autouse=True)
def _own_weights_again(server: VLLMServer, local: ChatVLM, steps: list[Step]) -> Iterator[None]:
    """Leave the server with the weights that the other tests expect."""
    yield
    with VLLMEngine(server.url, local.processor, timeout=600.0) as engine:
        engine.reload(steps[0].folder, version="default")


def gap(step: Step, request: Request, generation: Generation) -> float:
    """How far a reply's log-probabilities are from a policy's."""
    plain = rescored(step.engine, request.token_ids, generation.token_ids, request.images, temperature=1.0)
    return max(abs(a - b) for a, b in zip(plain, generation.logprobs, strict=True))


def test_after_each_step_the_new_policy_answers(engine: VLLMEngine, steps: list[Step], asked: list[Request]) -> None:
    for number, step in enumerate(steps):
        version = engine.reload(step.folder)
        replies = engine.generate(asked)
        assert version == engine.weights
        assert max(gap(step, *pair) for pair in zip(asked, replies, strict=True)) <= TOLERANCE
        others = [other for place, other in enumerate(steps) if place != number]
        for other in others:
            assert max(gap(other, *pair) for pair in zip(asked, replies, strict=True)) > TOLERANCE


def test_replies_under_way_at_a_reload_are_of_one_policy_each(
    engine: VLLMEngine, steps: list[Step], asked: list[Request]
) -> None:
    engine.reload(steps[1].folder)
    before = [engine.submit(request) for request in asked]
    engine.reload(steps[2].folder)
    after = [engine.submit(request) for request in asked]
    for futures, step in ((before, steps[1]), (after, steps[2])):
        for request, future in zip(asked, futures, strict=True):
            assert gap(step, request, future.result()) <= TOLERANCE


def test_replies_of_another_client_under_way_at_a_reload_are_of_the_old_policy(
    engine: VLLMEngine, server: VLLMServer, local: ChatVLM, steps: list[Step], asked: list[Request]
) -> None:
    version = engine.reload(steps[1].folder)
    with VLLMEngine(server.url, local.processor, timeout=600.0) as other:
        other.follow(version)
        futures = [other.submit(request) for request in asked]
        wait(futures, return_when=FIRST_COMPLETED)  # so they are under way
        engine.reload(steps[2].folder)
        assert not all(future.exception() for future in futures)
        for request, future in zip(asked, futures, strict=True):
            if error := future.exception():  # it came too late: the new policy has sampled it, so it was refused
                assert "comes from weights" in str(error)
            else:
                assert gap(steps[1], request, future.result()) <= TOLERANCE


def test_weights_that_cannot_be_loaded_are_told_and_no_reply_is_believed(
    server: VLLMServer, local: ChatVLM, asked: list[Request], tmp_path: Path
) -> None:
    """vLLM does not outlive this: its next request ends it. A supervisor starts it again; here the test does."""
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with VLLMEngine(server.url, local.processor, timeout=600.0, retries=1) as engine:
        with pytest.raises(ModelError, match="were not loaded"):
            engine.reload(tmp_path)
        with pytest.raises(ModelError):
            engine.generate(asked[:1])
    server.kill()
    server.launch()
    server.ready()


def test_a_server_that_was_killed_has_its_first_weights_again_and_is_found_out(
    engine: VLLMEngine, server: VLLMServer, steps: list[Step], asked: list[Request]
) -> None:
    engine.reload(steps[1].folder)
    server.kill()
    server.launch()
    server.ready()
    with pytest.raises(ModelError, match="from weights 'default'"):
        engine.generate(asked[:1])
    engine.reload(steps[1].folder)
    assert gap(steps[1], asked[0], engine.generate(asked[:1])[0]) <= TOLERANCE
