"""Weights that change while a server runs: a reply comes from one known version, or is refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.checkpoints import make_processor
from tests.fake_vllm import FakeVLLM
from vtagent.errors import ModelError
from vtagent.models.engine import EngineImage, Generation, Request, Sampling
from vtagent.models.processor import VLProcessor
from vtagent.models.vllm.engine import VLLMEngine

ORDERS = [
    "/pause?mode=wait",
    "/update_weight_version",
    "/collective_rpc",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/reset_encoder_cache",
    "/update_weight_version",
    "/resume",
]


@pytest.fixture(scope="module")
def processor() -> VLProcessor:
    return make_processor()


@pytest.fixture
def server(processor: VLProcessor) -> Iterator[FakeVLLM]:
    with FakeVLLM(processor) as server:
        yield server


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with weights; the fake server reads no more than its name."""
    folder = tmp_path_factory.mktemp("checkpoints") / "step-1"
    folder.mkdir()
    (folder / "model.safetensors").touch()
    return folder


@pytest.fixture
def engine(server: FakeVLLM, processor: VLProcessor) -> Iterator[VLLMEngine]:
    with VLLMEngine(server.url, processor, backoff=0.001, timeout=30.0) as engine:
        yield engine


QUESTION = Request((45, 46, 47), (), Sampling(max_tokens=12))


def answer(engine: VLLMEngine) -> Generation:
    return engine.submit(QUESTION).result(60)


def test_after_a_reload_the_new_weights_answer(engine: VLLMEngine, server: FakeVLLM, step: Path) -> None:
    before = answer(engine)
    version = engine.reload(step)
    assert version.startswith("step-1-")
    assert (engine.weights, server.version, server.loaded) == (version, version, str(step))
    assert answer(engine).token_ids != before.token_ids


def test_a_reload_empties_every_cache_while_nothing_is_sampled(
    engine: VLLMEngine, server: FakeVLLM, step: Path
) -> None:
    engine.reload(step, version="one")
    assert server.orders == ORDERS
    named = [body["new_version"] for path, body in server.calls if path == "/update_weight_version"]
    assert named == ["loading one", "one"]


def test_two_reloads_of_one_folder_are_two_versions(engine: VLLMEngine, step: Path) -> None:
    assert engine.reload(step) != engine.reload(step)


def test_a_reload_waits_for_requests_under_way_and_new_ones_wait_for_it(
    engine: VLLMEngine, server: FakeVLLM, step: Path
) -> None:
    held, begun = threading.Event(), threading.Event()

    def hold(place: int) -> None:
        begun.set()
        assert held.wait(60)

    server.step = hold
    running = engine.submit(Request(QUESTION.token_ids, (), QUESTION.sampling, lambda token: None))
    assert begun.wait(60)
    reloading = threading.Thread(target=engine.reload, args=(step,))
    reloading.start()
    while not engine._weights._changing:
        time.sleep(0.001)
    later = engine.submit(QUESTION)
    assert (server.orders, len(server.generations)) == ([], 1)
    held.set()
    reloading.join(60)
    old, new = running.result(60), later.result(60)
    assert old.token_ids != new.token_ids
    assert [path for path, _ in server.calls].index("/resume") == len(server.calls) - 2


def test_a_reload_waits_for_a_request_whose_image_is_still_encoded(
    engine: VLLMEngine, processor: VLProcessor, step: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, begun = threading.Event(), threading.Event()
    encode = engine._urls.of

    def hold(image: EngineImage) -> str:
        begun.set()
        assert held.wait(60)
        return encode(image)

    monkeypatch.setattr(engine._urls, "of", hold)
    ids = processor.tokenizer.encode("<|vision_start|><|image_pad|><|vision_end|>What?")
    side = 2 * processor.vision.factor
    asked = Request(tuple(ids), (EngineImage("blank", Image.new("RGB", (side, side))),), Sampling(max_tokens=12))
    before = engine.submit(asked)
    assert begun.wait(60)
    reloading = threading.Thread(target=engine.reload, args=(step,))
    reloading.start()
    while not engine._weights._changing:
        time.sleep(0.001)
    held.set()
    reloading.join(60)
    assert before.result(60).token_ids != engine.submit(asked).result(60).token_ids


@pytest.mark.parametrize("order", sorted({order.partition("?")[0] for order in ORDERS} - {"/resume"}))
def test_after_a_reload_that_failed_no_reply_is_believed_until_one_succeeds(
    engine: VLLMEngine, server: FakeVLLM, step: Path, order: str
) -> None:
    answer(engine)
    server.failing = {order}
    with pytest.raises(ModelError, match=r"the weights in .+/step-1 were not loaded: .+ out of luck") as caught:
        engine.reload(step, version="one")
    assert "\n" not in str(caught.value)
    server.failing = set()
    with pytest.raises(ModelError, match=r"the reply comes from weights '(default|loading one)', not from 'one'"):
        answer(engine)
    engine.reload(step, version="one")
    assert answer(engine).token_ids


def test_a_folder_without_weights_is_refused_before_anything_changes(
    engine: VLLMEngine, server: FakeVLLM, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"there are no weights \(\*\.safetensors\) in"):
        engine.reload(tmp_path)
    assert server.orders == []
    assert answer(engine).token_ids


def test_a_failed_reload_lets_the_server_go_on_for_others(engine: VLLMEngine, server: FakeVLLM, step: Path) -> None:
    server.failing = {"/collective_rpc"}
    with pytest.raises(ModelError):
        engine.reload(step)
    assert server.orders[-1] == "/resume"


def test_a_pause_whose_answer_was_lost_does_not_outlast_the_failure(
    engine: VLLMEngine, server: FakeVLLM, step: Path
) -> None:
    server.losing = ["/pause"]
    with pytest.raises(ModelError, match="were not loaded"):
        engine.reload(step)
    assert not server.paused


def test_going_on_is_asked_for_until_the_server_says_that_it_does(
    engine: VLLMEngine, server: FakeVLLM, step: Path
) -> None:
    server.losing = ["/resume", "/resume"]
    version = engine.reload(step)
    assert server.orders == [*ORDERS, "/resume", "/resume"]
    assert (engine.weights, server.paused) == (version, False)


def test_weights_that_are_loaded_into_a_server_that_does_not_go_on_are_told_as_loaded(
    engine: VLLMEngine, server: FakeVLLM, step: Path
) -> None:
    server.failing = {"/resume"}
    with pytest.raises(ModelError, match=r"step-1 are loaded, but the server still pauses: .+ out of luck"):
        engine.reload(step, version="one")
    assert server.version == "one"


def test_a_server_that_started_anew_with_its_old_weights_is_found_out(
    engine: VLLMEngine, server: FakeVLLM, step: Path
) -> None:
    engine.reload(step, version="one")
    answer(engine)
    server.version, server.loaded = "default", ""
    with pytest.raises(ModelError, match="from weights 'default', not from 'one'"):
        answer(engine)


def test_tokens_of_two_versions_in_one_reply_are_refused(engine: VLLMEngine, server: FakeVLLM) -> None:
    answer(engine)
    server.version = "default+one"
    with pytest.raises(ModelError, match="from weights 'default' and 'one', not from 'default'"):
        answer(engine)


def test_weights_that_another_client_has_loaded_are_refused_until_they_are_followed(
    engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor, step: Path
) -> None:
    answer(engine)
    with VLLMEngine(server.url, processor) as other:
        version = other.reload(step)
    with pytest.raises(ModelError, match="not from 'default'"):
        answer(engine)
    engine.follow(version)
    assert answer(engine).token_ids


def test_a_listener_that_ends_a_reply_early_hides_no_mixture(engine: VLLMEngine, server: FakeVLLM, step: Path) -> None:
    engine.reload(step, version="one")
    server.version = "one+two"
    with pytest.raises(ModelError, match="'one' and 'two'"):
        engine.submit(Request(QUESTION.token_ids, (), QUESTION.sampling, lambda token: True)).result(60)
