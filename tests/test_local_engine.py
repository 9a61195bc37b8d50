"""The engine is exact: whatever is batched, cached or shared, its numbers are those of one plain forward pass."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.checkpoints import FAMILIES, FamilyName, make_checkpoint
from tests.rescoring import full_logits, rescored
from vtagent.errors import ModelError
from vtagent.models.engine import EngineImage, Generation, Request, Sampling
from vtagent.models.local.engine import TransformersEngine
from vtagent.models.local.sequence import SequenceState, prepare

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
FOREVER = 100_000


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[FamilyName, Path]:
    return {family: make_checkpoint(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def engine(request: pytest.FixtureRequest, folders: dict[FamilyName, Path]) -> Iterator[TransformersEngine]:
    with TransformersEngine.from_pretrained(folders[request.param]) as engine:
        yield engine


@pytest.fixture
def three(folders: dict[FamilyName, Path]) -> Iterator[TransformersEngine]:
    """An engine of one family, for what does not depend on it."""
    with TransformersEngine.from_pretrained(folders["qwen3_vl"]) as engine:
        yield engine


def noise_image(engine: TransformersEngine, name: str, columns: int, rows: int) -> EngineImage:
    """Noise of columns x rows visual tokens, the same for the same name."""
    factor = engine.processor.vision.factor
    noise = np.random.default_rng(sum(map(ord, name))).integers(0, 255, (rows * factor, columns * factor, 3))
    return EngineImage(name, Image.fromarray(noise.astype(np.uint8)))


def ask(engine: TransformersEngine, text: str, *images: EngineImage, **options: Any) -> Request:
    ids = engine.processor.tokenizer.encode(text)
    return Request(tuple(ids), images, Sampling(**{"max_tokens": 12, **options}))


def assert_exact(engine: TransformersEngine, requests: Sequence[Request], generations: Sequence[Generation]) -> None:
    for request, generation in zip(requests, generations, strict=True):
        temperature = request.sampling.temperature
        plain = rescored(engine, request.token_ids, generation.token_ids, request.images, temperature=temperature)
        assert generation.logprobs == pytest.approx(plain, abs=1e-4)


def mixed(engine: TransformersEngine) -> list[Request]:
    """Rows of different lengths, with no, one, two and three images of different shapes, greedy and sampled."""
    a, b, c = noise_image(engine, "a", 3, 2), noise_image(engine, "b", 1, 5), noise_image(engine, "c", 4, 4)
    return [
        ask(engine, "What is the total?"),
        ask(engine, f"{IMAGE}What?", a),
        ask(engine, f"One: {IMAGE} and two: {IMAGE}. Which is the receipt?", a, b, temperature=1.0, seed=1),
        ask(engine, f"{IMAGE}{IMAGE} so {IMAGE}", c, a, b, temperature=0.7, top_p=0.9, seed=2),
        ask(engine, f"The zoom_image tool. {IMAGE} What?", b, temperature=1.3, top_k=20, seed=3),
        ask(engine, "x", temperature=1.0, seed=4),
    ]


def test_logprobs_of_a_mixed_batch_are_those_of_a_full_forward_pass(engine: TransformersEngine) -> None:
    requests = mixed(engine)
    assert_exact(engine, requests, engine.generate(requests))


def test_rows_that_join_and_leave_a_running_batch_stay_exact(engine: TransformersEngine) -> None:
    requests = []
    for i in range(10):
        images = [noise_image(engine, "a", 2, 2 + i)] * (i % 2)
        text = f"{i} {IMAGE * len(images)} What is the total?"
        requests.append(ask(engine, text, *images, max_tokens=3 + 5 * (i % 4), temperature=1.0, seed=i))
    small = TransformersEngine(engine.model, engine.processor, max_rows=3)
    with small:
        assert_exact(small, requests, small.generate(requests))


def test_greedy_replies_do_not_depend_on_the_batch(engine: TransformersEngine) -> None:
    requests = [ask(engine, f"{IMAGE}What is {i}?", noise_image(engine, "a", 3, 3)) for i in range(8)]
    together = engine.generate(requests)
    engine.forget()
    alone = [engine.generate([request])[0] for request in requests]
    assert [reply.token_ids for reply in together] == [reply.token_ids for reply in alone]


def test_a_seed_gives_one_reply_in_any_company(three: TransformersEngine) -> None:
    own = ask(three, "What is the total?", temperature=1.0, seed=11)
    [alone] = three.generate([own])
    others = [ask(three, f"What is {i}", temperature=1.0) for i in range(5)]
    assert three.generate([*others, own])[-1].token_ids == alone.token_ids


def second_turn(
    engine: TransformersEngine, first: Request, reply: Generation, text: str, *images: EngineImage
) -> Request:
    more = engine.processor.tokenizer.encode(text)
    return Request((*first.token_ids, *reply.token_ids, *more), (*first.images, *images), first.sampling)


def test_the_second_turn_prefills_only_new_tokens_and_its_logits_are_those_of_a_fresh_pass(
    engine: TransformersEngine,
) -> None:
    low, zoomed = noise_image(engine, "low", 2, 2), noise_image(engine, "zoomed", 4, 4)
    first = ask(engine, f"{IMAGE}What is the total?", low, temperature=1.0, seed=1)
    [reply] = engine.generate([first])
    second = second_turn(engine, first, reply, f"tool {IMAGE} assistant", zoomed)
    seen: list[torch.Tensor] = []
    prefill = engine._scheduler._decoder.prefill
    engine._scheduler._decoder.prefill = lambda *args: seen.append(prefill(*args)) or seen[-1]  # type: ignore[method-assign,func-returns-value]
    before = engine.counters.prefilled_tokens
    [again] = engine.generate([second])
    known = reply.prompt_tokens + len(reply.token_ids) - 1  # the token sampled last was never fed back
    assert again.prefilled_tokens == again.prompt_tokens - known
    assert engine.counters.prefilled_tokens - before == again.prefilled_tokens
    assert engine.images_encoded == 2
    fresh = full_logits(engine, second.token_ids, second.images)[-1]
    assert (seen[0][0] - fresh).abs().max() < 1e-4
    assert_exact(engine, [second], [again])


def test_a_prompt_longer_than_one_prefill_chunk_is_exact(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtagent.models.local.decoder._CHUNK", 7)
    requests = mixed(engine)
    assert_exact(engine, requests, engine.generate(requests))


def test_a_group_is_prefilled_once_and_its_image_encoded_once(engine: TransformersEngine) -> None:
    shared = noise_image(engine, "a", 4, 4)
    group = [ask(engine, f"{IMAGE}What is the total?", shared, temperature=1.0, seed=i) for i in range(16)]
    replies = engine.generate(group)
    assert engine.counters.prefilled_tokens == replies[0].prompt_tokens
    assert sorted(reply.prefilled_tokens for reply in replies) == [0] * 15 + [replies[0].prompt_tokens]
    assert engine.images_encoded == 1
    assert len({reply.token_ids for reply in replies}) > 1
    assert_exact(engine, group, replies)


def test_prompts_that_begin_alike_share_their_beginning(three: TransformersEngine) -> None:
    shared = noise_image(three, "a", 7, 7)
    requests = [ask(three, f"{IMAGE}What is {i}?", shared, max_tokens=2) for i in range(8)]
    replies = three.generate(requests)
    total = sum(reply.prompt_tokens for reply in replies)
    assert three.counters.prefilled_tokens < total / 3
    assert_exact(three, requests, replies)


def test_one_key_with_two_sizes_is_two_images(three: TransformersEngine) -> None:
    small, large = noise_image(three, "a", 2, 2), noise_image(three, "a", 3, 3)
    requests = [ask(three, f"{IMAGE}What?", image) for image in (small, large)]
    assert_exact(three, requests, [three.generate([request])[0] for request in requests])
    assert three.images_encoded == 2


def test_after_forget_nothing_of_the_old_weights_is_reused(three: TransformersEngine) -> None:
    request = ask(three, f"{IMAGE}What is the total?", noise_image(three, "a", 3, 3))
    three.generate([request])
    with torch.no_grad():
        for weights in three.model.parameters():
            weights.mul_(0.9)
    three.forget()
    replies = three.generate([request])
    assert replies[0].prefilled_tokens == replies[0].prompt_tokens
    assert_exact(three, [request], replies)


def test_forget_frees_the_memory_of_an_idle_engine(three: TransformersEngine) -> None:
    three.generate([ask(three, f"{IMAGE}What?", noise_image(three, "a", 3, 3))])
    assert three.cached_tokens > 0
    three.forget()
    waited = threading.Event()
    while three.cached_tokens and not waited.wait(0.01):
        pass
    assert three._scheduler.vision.tokens == 0


def test_sampling_from_a_model_under_gradient_checkpointing_is_refused(three: TransformersEngine) -> None:
    for layer in three.model.model.language_model.layers:
        layer.gradient_checkpointing = True
    three.model.train()
    with pytest.raises(ModelError, match=r"call model\.eval\(\)"):
        three.generate([ask(three, "What?")])
    three.model.eval()
    assert three.generate([ask(three, "What?")])[0].token_ids


def test_announced_requests_are_computed_together(three: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_GAP_SECONDS", "_GATHER_SECONDS"):
        monkeypatch.setattr(f"vtagent.models.local.engine.{name}", 60.0)
    with three.announce():
        futures = [three.submit(ask(three, f"What is {i}?")) for i in range(3)]
    wait(futures)
    assert three.counters.prefill_passes == 1


def test_an_announced_request_that_never_comes_holds_nobody_up(three: TransformersEngine) -> None:
    with three.announce():
        assert three.generate([ask(three, "What is it?")])


def test_rows_that_come_one_by_one_join_a_large_batch_together(three: TransformersEngine) -> None:
    scheduler = three._scheduler

    def add(text: str) -> None:
        request = ask(three, text, max_tokens=40, logit_bias=dict.fromkeys(three.stop, -1e9))
        model, processor = three.model.model, three.processor
        scheduler.add(prepare(request, Future(), model, processor, context=three.context, stop=three.stop))

    with torch.no_grad():
        for i in range(9):
            add(f"What is {i}?")
        scheduler.step()
        for text in ("Total?", "Name?"):
            add(text)
            scheduler.step()
        assert (scheduler.counters.prefill_passes, len(scheduler.waiting)) == (1, 2)
        while scheduler.waiting:
            scheduler.step()
        assert (scheduler.counters.prefill_passes, len(scheduler.active)) == (2, 11)
        assert scheduler.counters.decode_steps < 20


def test_a_long_queue_of_unequal_prompts_is_served_to_the_last(three: TransformersEngine) -> None:
    with TransformersEngine(three.model, three.processor, max_rows=4, max_wave_tokens=64) as small:
        requests = [ask(small, "What is the total? " * (1 + 7 * (i % 3)) + str(i), max_tokens=2) for i in range(40)]
        assert_exact(small, requests, small.generate(requests))


def test_cached_kv_and_features_stay_inside_their_bounds(three: TransformersEngine) -> None:
    with TransformersEngine(three.model, three.processor, cache_tokens=100, image_cache_tokens=10) as small:
        for i in range(12):
            request = ask(small, f"{i} {IMAGE}What is the total?", noise_image(small, f"{i}", 3, 2))
            assert_exact(small, [request], small.generate([request]))
            assert small.cached_tokens <= 100
            assert small._scheduler.vision.tokens <= 10


def test_image_and_vision_tokens_are_never_sampled(three: TransformersEngine) -> None:
    never = [three.processor.tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in
             ("image_pad", "video_pad", "vision_start", "vision_end")]  # fmt: skip
    loud = dict.fromkeys(never, 100.0)
    requests = [ask(three, "What?", temperature=t, logit_bias=loud, max_tokens=30) for t in (0.0, 1.0)]
    for reply in three.generate(requests):
        assert not set(reply.token_ids) & set(never)


def test_the_end_of_turn_token_is_kept_and_ends_the_reply(three: TransformersEngine) -> None:
    end = three.processor.tokenizer.eos_token_id
    [reply] = three.generate([ask(three, "What?", logit_bias={end: 1000.0})])
    assert (reply.token_ids, reply.finish_reason) == ((end,), "stop")


def test_a_model_that_never_stops_ends_at_max_tokens_or_at_its_context(three: TransformersEngine) -> None:
    never = dict.fromkeys(three.stop, -1000.0)
    [reply] = three.generate([ask(three, "What?", logit_bias=never, max_tokens=9)])
    assert (len(reply.token_ids), reply.finish_reason) == (9, "length")
    three.context = 40
    [reply] = three.generate([ask(three, "What?", logit_bias=never, max_tokens=FOREVER)])
    assert (reply.prompt_tokens + len(reply.token_ids), reply.finish_reason) == (40, "length")


def test_on_token_sees_each_token_and_may_end_the_reply(three: TransformersEngine) -> None:
    seen: list[int] = []

    def watch(token: int) -> bool:
        seen.append(token)
        return len(seen) == 3

    asked = ask(three, "What?", logit_bias=dict.fromkeys(three.stop, -1000.0))
    [reply] = three.generate([Request(asked.token_ids, (), asked.sampling, watch)])
    assert list(reply.token_ids) == seen
    assert (len(seen), reply.finish_reason) == (3, "stop")


def bad_requests(engine: TransformersEngine) -> dict[str, Request]:
    odd = EngineImage("odd", Image.new("RGB", (33, 47)))
    return {
        "empty": Request(()),
        "context": Request((5,) * 4096),
        "placeholders": ask(engine, f"{IMAGE}{IMAGE}", noise_image(engine, "a", 2, 2)),
        "follow one another": ask(engine, "<|image_pad|><|image_pad|>", *[noise_image(engine, "a", 2, 2)] * 2),
        "resized": ask(engine, IMAGE, odd),
        "outside": Request((10**6,)),
        "max_tokens": ask(engine, "x", max_tokens=0),
        "temperature": ask(engine, "x", temperature=-1.0),
        "logit_bias": ask(engine, "x", logit_bias={10**6: 1.0}),
        "banned": ask(engine, "x", banned=frozenset({-1})),
    }


def test_a_request_that_cannot_be_served_fails_alone_and_in_one_line(three: TransformersEngine) -> None:
    bad = bad_requests(three)
    good = ask(three, "What is the total?")
    futures = {word: three.submit(request) for word, request in bad.items()}
    served = three.submit(good)
    assert_exact(three, [good], [served.result(60)])
    for word, future in futures.items():
        with pytest.raises(ModelError, match=word) as caught:
            future.result(60)
        assert "\n" not in str(caught.value)


def test_an_error_in_one_callback_leaves_the_others_alone(three: TransformersEngine) -> None:
    def fail(token: int) -> None:
        raise ValueError("no\nroom")

    asked = ask(three, "What?")
    broken = three.submit(Request(asked.token_ids, (), asked.sampling, fail))
    fine = three.submit(ask(three, "What is the total?"))
    assert fine.result(60).token_ids
    with pytest.raises(ModelError, match="ValueError: no room"):
        broken.result(60)


def test_a_prefill_that_fails_takes_only_the_row_at_fault(
    three: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = three._scheduler.vision.encode

    def picky(images: Sequence[EngineImage]) -> Any:
        if any(image.key == "bad" for image in images):
            raise RuntimeError("cannot encode")
        return encode(images)

    monkeypatch.setattr(three._scheduler.vision, "encode", picky)
    requests = [ask(three, f"{IMAGE}What?", noise_image(three, name, 2, 2)) for name in ("a", "bad", "b")]
    futures = [three.submit(request) for request in requests]
    wait(futures, 60)
    assert futures[0].exception() is None
    assert futures[2].exception() is None
    with pytest.raises(ModelError, match="cannot encode"):
        futures[1].result()


def test_a_row_that_cannot_be_sampled_leaves_those_under_way_alone(
    three: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler_of = three._scheduler._sampler_of

    def picky(sequences: Sequence[SequenceState]) -> Any:
        if any(sequence.request.sampling.seed == 13 for sequence in sequences):
            raise RuntimeError("cannot sample")
        return sampler_of(sequences)

    monkeypatch.setattr(three._scheduler, "_sampler_of", picky)
    under_way = threading.Event()
    first = three.submit(endless(three, under_way))
    assert under_way.wait(60)
    futures = [three.submit(ask(three, f"What is {i}?", seed=seed)) for i, seed in enumerate((1, 13, 2))]
    wait(futures, 60)
    with pytest.raises(ModelError, match="cannot sample"):
        futures[1].result()
    assert_exact(
        three, [ask(three, "What is 0?"), ask(three, "What is 2?")], [futures[0].result(), futures[2].result()]
    )
    assert not first.done()
    first.cancel()


def test_a_step_that_fails_is_reported_to_all_its_rows_and_the_engine_lives_on(
    three: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> torch.Tensor:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(three._scheduler._decoder, "step", broken)
        futures = [three.submit(ask(three, f"What is {i}?")) for i in range(3)]
        for future in futures:
            with pytest.raises(ModelError, match="out of memory"):
                future.result(60)
    assert three.generate([ask(three, "What?")])[0].token_ids


def test_weights_that_are_not_numbers_are_reported(three: TransformersEngine) -> None:
    with torch.no_grad():
        three.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ModelError, match="not a number"):
        three.generate([ask(three, "What?")])


def endless(engine: TransformersEngine, started: threading.Event) -> Request:
    asked = ask(engine, "What?", max_tokens=FOREVER, logit_bias=dict.fromkeys(engine.stop, -1000.0))
    return Request(asked.token_ids, (), asked.sampling, lambda token: started.set())


def test_cancelling_a_request_frees_its_row(three: TransformersEngine) -> None:
    with TransformersEngine(three.model, three.processor, max_rows=1) as small:
        started = threading.Event()
        future = small.submit(endless(small, started))
        waiting = small.submit(ask(small, "What?"))
        assert started.wait(60)
        assert future.cancel()
        assert waiting.result(60).token_ids
        assert small.unfinished_requests == 0
        with pytest.raises(CancelledError):
            future.result()


def test_closing_fails_what_is_under_way_and_refuses_what_comes(three: TransformersEngine) -> None:
    started = threading.Event()
    running = three.submit(endless(three, started))
    assert started.wait(60)
    three.close()
    with pytest.raises(ModelError, match="closed before the reply was complete"):
        running.result(60)
    with pytest.raises(ModelError, match="the engine is closed"):
        three.generate([ask(three, "What?")])
    three.close()


def test_the_worker_ends_when_idle_and_comes_back(three: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vtagent.models.local.engine._IDLE_SECONDS", 0.01)
    three.generate([ask(three, "What?")])
    worker = three._worker
    if worker is not None:
        worker.join(60)
    assert three._worker is None
    assert three.generate([ask(three, "What?")])[0].token_ids


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "no model at .*config.json"),
        ("{broken", "no model at .*not a valid JSON file"),
        ('{"model_type": "of_tomorrow"}', "no model at .*of_tomorrow.*Transformers does not recognize"),
        ('{"model_type": "qwen3_vl", "text_config": 3}', "no model at .*text_config"),
        ('{"model_type": "qwen3_vl_moe"}', "'qwen3_vl_moe' is not served; take a dense model"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line_that_says_why(
    config: str | None, reason: str, tmp_path: Path
) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match=reason) as caught:
        TransformersEngine.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_weights_that_were_cut_short_are_refused_in_one_line(tmp_path: Path) -> None:
    weights = make_checkpoint(tmp_path, "qwen3_vl") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cannot be loaded") as caught:
        TransformersEngine.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_no_worker_is_left_when_the_interpreter_ends() -> None:
    """A thread that is in torch's code at that moment would abort the process."""
    code = """
import atexit
atexit.register(lambda: print([thread.name for thread in threading.enumerate() if "engine" in thread.name]))
import threading
from vtagent.models.engine import Request, Sampling
from vtagent.models.local.engine import TransformersEngine

engine = TransformersEngine.from_pretrained("zoom")
engine.generate([Request((40, 41, 42), (), Sampling(max_tokens=1))])
print([thread.name for thread in threading.enumerate() if "engine" in thread.name])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, ["['vtagent-engine']", "[]"]), done.stderr
