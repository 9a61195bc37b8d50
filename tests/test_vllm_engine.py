"""VLLMEngine against a fake server: the requests it sends, the checks of the answers, and failures.

The same engine against the real server: tests/vllm/.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.checkpoints import make_processor
from tests.fake_vllm import FakeVLLM
from vtagent.errors import ModelError
from vtagent.models.engine import Engine, EngineImage, Generation, Request, Sampling
from vtagent.models.loop_thread import LoopThread
from vtagent.models.processor import VLProcessor
from vtagent.models.vllm.engine import VLLMEngine

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.fixture(scope="module")
def processor() -> VLProcessor:
    return make_processor()


@pytest.fixture
def server(processor: VLProcessor) -> Iterator[FakeVLLM]:
    with FakeVLLM(processor) as server:
        yield server


@pytest.fixture
def connect(server: FakeVLLM, processor: VLProcessor) -> Iterator[Callable[..., VLLMEngine]]:
    """Makes engines with short pauses between retries, and closes them."""
    made: list[VLLMEngine] = []

    def connect(**options: Any) -> VLLMEngine:
        made.append(VLLMEngine(server.url, processor, **{"backoff": 0.001, "timeout": 30.0, **options}))
        return made[-1]

    yield connect
    for engine in made:
        engine.close()


@pytest.fixture
def engine(connect: Callable[..., VLLMEngine]) -> VLLMEngine:
    return connect()


def noise_image(processor: VLProcessor, columns: int, rows: int, seed: int = 0) -> EngineImage:
    factor = processor.vision.factor
    noise = np.random.default_rng(seed).integers(0, 255, (rows * factor, columns * factor, 3))
    return EngineImage(f"noise-{seed}", Image.fromarray(noise.astype(np.uint8)))


def ask(processor: VLProcessor, text: str = "What?", *images: EngineImage, **sampling: Any) -> Request:
    ids = processor.tokenizer.encode(text)
    return Request(tuple(ids), images, Sampling(**{"max_tokens": 12, **sampling}))


def one(engine: VLLMEngine, request: Request) -> Generation:
    return engine.generate([request])[0]


def refused(future: Future[Generation], words: str) -> str:
    """The error of a request; it is one line."""
    with pytest.raises(ModelError, match=words) as caught:
        future.result(60)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_it_is_an_engine(engine: VLLMEngine) -> None:
    assert isinstance(engine, Engine)


def test_making_one_asks_the_server_nothing(engine: VLLMEngine, server: FakeVLLM) -> None:
    assert server.calls == []


# --- what is sent and read


def test_a_prompt_goes_out_collapsed_with_its_exact_pixels(
    engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor
) -> None:
    a, b = noise_image(processor, 3, 2, seed=1), noise_image(processor, 1, 4, seed=2)
    request = ask(processor, f"{IMAGE} or {IMAGE}?", a, b)
    reply = one(engine, request)
    [sent] = server.generations
    assert tuple(sent["token_ids"]) == request.token_ids
    _, seen = server.prompt(sent)
    assert [image.tobytes() for image in seen] == [a.pixels.tobytes(), b.pixels.tobytes()]
    assert reply.image_tokens == 3 * 2 + 1 * 4
    assert reply.prompt_tokens == len(request.token_ids) + reply.image_tokens - 2


def test_a_reply_is_taken_token_by_token_with_its_logprobs(
    engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor
) -> None:
    reply = one(engine, ask(processor))
    assert list(reply.token_ids) == server.sample(server.generations[0])
    assert reply.logprobs == pytest.approx([-token / 64 for token in reply.token_ids])
    assert reply.finish_reason == "stop"


def test_a_reply_that_never_ends_is_cut_by_length(engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor) -> None:
    server.policy = lambda body, prompt: [50] * body["sampling_params"]["max_tokens"]
    reply = one(engine, ask(processor, max_tokens=5))
    assert (len(reply.token_ids), reply.finish_reason) == (5, "length")


def test_the_servers_cache_hits_are_reported(engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor) -> None:
    server.cached = 3
    reply = one(engine, ask(processor, "What is the total?"))
    assert reply.prompt_tokens - reply.prefilled_tokens == 3


def test_sampling_is_passed_on(engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor) -> None:
    one(engine, ask(processor, temperature=1.0, top_p=0.9, top_k=7, seed=5, logit_bias={60: 2.5}, stop=frozenset({61})))
    sent = server.generations[0]["sampling_params"]
    assert {name: sent[name] for name in ("temperature", "top_p", "top_k", "seed", "max_tokens")} == {
        "temperature": 1.0, "top_p": 0.9, "top_k": 7, "seed": 5, "max_tokens": 12,
    }  # fmt: skip
    assert sent["logit_bias"]["60"] == 2.5
    assert set(sent["stop_token_ids"]) == engine.stop | {61}
    assert processor.tokenizer.eos_token_id in engine.stop


def test_image_tokens_and_banned_ones_are_held_back_whatever_the_bias(
    engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor
) -> None:
    pad = processor.image_token_id
    one(engine, ask(processor, logit_bias={pad: 100.0}, banned=frozenset({77})))
    bias = server.generations[0]["sampling_params"]["logit_bias"]
    assert {pad, 77} < {int(token) for token, value in bias.items() if value <= -100}


def test_a_reply_with_a_banned_token_is_not_believed(
    engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor
) -> None:
    server.policy = lambda body, prompt: [processor.image_token_id, processor.tokenizer.eos_token_id]
    refused(engine.submit(ask(processor)), "banned")


def test_a_prompt_that_the_server_expands_otherwise_is_not_believed(
    engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ask(processor, f"{IMAGE}?", noise_image(processor, 3, 2))
    read = server.prompt

    def one_pad_more(body: Any) -> Any:
        ids, images = read(body)
        return [processor.image_token_id, *ids], images

    monkeypatch.setattr(server, "prompt", one_pad_more)
    refused(engine.submit(request), "same image sizes")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logprobs_at_temperature_0_and_1_are_the_servers_own(
    engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor, temperature: float
) -> None:
    reply = one(engine, ask(processor, temperature=temperature))
    assert reply.logprobs[0] == -reply.token_ids[0] / 64
    assert server.generations[0]["sampling_params"]["logprobs"] == 0


def bad_requests(processor: VLProcessor) -> dict[str, Request]:
    odd = EngineImage("odd", Image.new("RGB", (33, 47)))
    return {
        "empty": Request(()),
        "placeholders": ask(processor, f"{IMAGE}{IMAGE}", noise_image(processor, 2, 2)),
        "resized": ask(processor, IMAGE, odd),
        "max_tokens": ask(processor, max_tokens=0),
        "context": Request((5,) * 400),
    }


def test_a_request_that_cannot_be_served_fails_alone_before_it_is_sent(
    connect: Callable[..., VLLMEngine], server: FakeVLLM, processor: VLProcessor
) -> None:
    engine = connect(context=300)
    futures = {word: engine.submit(request) for word, request in bad_requests(processor).items()}
    assert one(engine, ask(processor)).token_ids
    for word, future in futures.items():
        refused(future, word)
    assert len(server.generations) == 1


def test_what_is_served_tells_the_longest_context(engine: VLLMEngine) -> None:
    unknown = engine.context
    assert (engine.served_model().name, engine.context, unknown) == ("tiny", 4096, None)


def test_the_old_name_still_works_and_tells_the_new_one(engine: VLLMEngine) -> None:
    with pytest.warns(DeprecationWarning, match="served_model"):
        assert engine.served() == engine.served_model()


def test_a_model_that_is_not_served_is_named(connect: Callable[..., VLLMEngine]) -> None:
    with pytest.raises(ModelError, match="does not serve 'huge'; it serves tiny"):
        connect(model="huge").served_model()


@pytest.mark.parametrize("url", ["localhost:8000", "", "ftp://x", "http://"])
def test_what_is_no_url_is_refused(url: str, processor: VLProcessor) -> None:
    with pytest.raises(ModelError, match="is not a URL"):
        VLLMEngine(url, processor)


def test_the_key_is_sent_and_never_shown(
    connect: Callable[..., VLLMEngine], server: FakeVLLM, processor: VLProcessor
) -> None:
    engine = connect(api_key="s3cret")
    server.troubles = ["401"]
    assert "s3cret" not in refused(engine.submit(ask(processor)), r"refused \(401\)")
    assert server.headers[0]["Authorization"] == "Bearer s3cret"


# --- streaming


def listening(request: Request, hear: Callable[[int], bool | None]) -> Request:
    return Request(request.token_ids, request.images, request.sampling, hear)


def test_tokens_are_heard_before_the_reply_is_complete(
    engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor
) -> None:
    heard = threading.Event()
    told: list[int] = []

    def hear(token: int) -> None:
        told.append(token)
        heard.set()

    def wait_for_the_first(place: int) -> None:
        if place == 1:
            assert heard.wait(60)

    server.step = wait_for_the_first
    reply = engine.submit(listening(ask(processor), hear)).result(60)
    assert told == list(reply.token_ids)


def test_the_listener_may_end_the_reply(engine: VLLMEngine, processor: VLProcessor) -> None:
    told: list[int] = []

    def hear(token: int) -> bool:
        told.append(token)
        return len(told) == 3

    reply = one(engine, listening(ask(processor), hear))
    assert list(reply.token_ids) == told
    assert (len(reply.logprobs), reply.finish_reason) == (3, "stop")


def test_streamed_or_not_a_reply_is_the_same(engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor) -> None:
    server.cached = 2
    request = ask(processor, f"{IMAGE}What?", noise_image(processor, 2, 2), seed=1)
    assert one(engine, request) == one(engine, listening(request, lambda token: None))


def test_an_error_in_one_listener_leaves_the_others_alone(engine: VLLMEngine, processor: VLProcessor) -> None:
    def fail(token: int) -> None:
        raise ValueError("no\nroom")

    broken, fine = engine.submit(listening(ask(processor), fail)), engine.submit(ask(processor, "x"))
    assert fine.result(60).token_ids
    refused(broken, "ValueError: no room")


# --- failures

TROUBLES = {
    "drop": "broke off its answer",
    "truncate": "broke off its answer",
    "html": "not JSON: '<html>Bad gateway",
    "garbled": "broke off its answer",
    "slow": "no complete answer within 0.3 seconds",
    "500": r"failed \(500\): trouble number 500",
    "503": r"failed \(503\)",
    "429": r"failed \(429\)",
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_may_mend_is_tried_again(
    connect: Callable[..., VLLMEngine], server: FakeVLLM, processor: VLProcessor, trouble: str
) -> None:
    engine = connect(retries=2, timeout=0.3 if trouble == "slow" else 30.0)
    server.troubles = [trouble, trouble]
    assert one(engine, ask(processor)).token_ids
    assert len(server.generations) == 3


@pytest.mark.parametrize("trouble", TROUBLES)
def test_what_does_not_mend_is_told_in_one_line(
    connect: Callable[..., VLLMEngine], server: FakeVLLM, processor: VLProcessor, trouble: str
) -> None:
    engine = connect(retries=1, timeout=0.3 if trouble == "slow" else 30.0)
    server.troubles = [trouble] * 2
    told = refused(engine.submit(ask(processor)), TROUBLES[trouble])
    assert told.startswith(f"the vLLM server at {server.url} ")
    assert told.endswith(", tried 2 times")
    assert one(engine, ask(processor)).token_ids


def test_a_server_that_is_not_there_is_told_in_one_line(
    connect: Callable[..., VLLMEngine], server: FakeVLLM, processor: VLProcessor
) -> None:
    engine = connect(retries=1)
    server.__exit__()
    refused(engine.submit(ask(processor)), r"does not answer \(.+\), tried 2 times")


def test_a_refusal_is_not_tried_again(engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor) -> None:
    server.troubles = ["400"]
    refused(engine.submit(ask(processor)), r"refused \(400\): trouble number 400")
    assert len(server.generations) == 1


def test_a_server_without_the_endpoint_is_told_how_to_start(
    engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor
) -> None:
    server.troubles = ["404"]
    refused(engine.submit(ask(processor)), "--enable-scale-out")


@pytest.mark.parametrize(
    "answer",
    [None, [], {}, {"choices": []}, {"choices": [{}]}, {"choices": [{"token_ids": ["a"], "finish_reason": "stop"}]}],
)
def test_an_answer_of_another_form_is_not_believed(
    engine: VLLMEngine, processor: VLProcessor, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def post(path: str, body: Any = None) -> Any:
        return answer

    monkeypatch.setattr(engine._server, "post", post)
    refused(engine.submit(ask(processor)), "cannot be read|broke off after 0 tokens")


def test_logprobs_that_are_not_numbers_are_told(
    engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tests.fake_vllm.content", lambda tokens, body: [{"token_id": token, "logprob": -9999.0} for token in tokens]
    )
    refused(engine.submit(ask(processor)), "not a number")


@pytest.mark.parametrize("trouble", ["break", "truncate"])
def test_a_stream_that_breaks_off_is_tried_again_and_each_token_heard_once(
    engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor, trouble: str
) -> None:
    told: list[int] = []
    server.troubles = [trouble]
    reply = one(engine, listening(ask(processor, temperature=1.0), told.append))
    first, second = server.generations
    assert first["sampling_params"]["seed"] == second["sampling_params"]["seed"]
    assert told == list(reply.token_ids)


def test_a_second_reply_that_is_another_one_is_not_joined_to_the_first(
    engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor
) -> None:
    server.troubles = ["break"]
    server.policy = lambda body, prompt: [50 + len(server.generations)] * 4
    refused(engine.submit(listening(ask(processor, max_tokens=4), lambda token: None)), "not the one that was begun")


def test_cancelling_a_request_frees_its_place(
    connect: Callable[..., VLLMEngine], server: FakeVLLM, processor: VLProcessor
) -> None:
    engine = connect(concurrency=1)
    server.troubles = ["slow"]
    future = engine.submit(ask(processor))
    waiting = engine.submit(ask(processor, "x"))
    assert server.waiting.wait(60)
    assert future.cancel()
    assert waiting.result(60).token_ids
    with pytest.raises(CancelledError):
        future.result()


def test_closing_fails_what_is_under_way_and_refuses_what_comes(
    engine: VLLMEngine, server: FakeVLLM, processor: VLProcessor
) -> None:
    server.troubles = ["slow"]
    future = engine.submit(ask(processor))
    assert server.waiting.wait(60)
    engine.close()
    refused(future, "closed before the reply was complete")
    refused(engine.submit(ask(processor)), "the engine is closed")
    engine.close()


def test_who_closes_while_it_is_being_closed_breaks_nothing_off() -> None:
    ending, ended = threading.Event(), []

    async def finish() -> None:
        ending.set()
        await asyncio.sleep(0.2)
        ended.append(True)

    async def work() -> None: ...

    thread = LoopThread("test", at_end=finish, closed="the test is over")
    thread.run(work()).result(60)
    first = threading.Thread(target=thread.close, args=(ModelError("closed"),))
    first.start()
    assert ending.wait(60)
    thread.close(ModelError("closed"))
    first.join(60)
    assert ended == [True]


def test_whoever_submits_while_it_closes_is_not_left_waiting(
    connect: Callable[..., VLLMEngine], processor: VLProcessor
) -> None:
    for _ in range(20):
        engine = connect()
        futures = [engine.submit(ask(processor))]
        closing = threading.Thread(target=engine.close)
        closing.start()
        futures += [engine.submit(ask(processor, f"{i}")) for i in range(20)]
        closing.join(60)
        for future in futures:
            assert isinstance(future.exception(60), ModelError | None)


def test_a_failure_in_a_group_still_serves_the_others(
    connect: Callable[..., VLLMEngine], server: FakeVLLM, processor: VLProcessor
) -> None:
    engine = connect(concurrency=1)
    server.troubles = ["400"]
    with pytest.raises(ModelError):
        engine.generate([ask(processor, f"{i}") for i in range(4)])
    assert len(server.generations) == 4
