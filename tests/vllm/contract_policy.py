"""The bundled policy samples the same tokens in a real vLLM as in this process."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from tests.rescoring import rescored
from tests.vllm.runs import distance, records, run
from vtagent.models.chat import ChatVLM
from vtagent.models.engine import EngineImage, Request, Sampling
from vtagent.models.local.engine import TransformersEngine
from vtagent.models.vllm.engine import VLLMEngine
from vtagent.training.data import Example, rendered
from vtagent.views import View

DOCUMENTS = 200
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def few() -> list[Example]:
    return list(rendered(8, seed=3))


def first_prompt(model: ChatVLM, example: Example) -> tuple[tuple[int, ...], tuple[EngineImage, ...]]:
    """The ids and images of a question about the small view, as the model would send them."""
    view = View(model.image_store.put(example.image), scale=0.5).block()
    messages = [HumanMessage([view, {"type": "text", "text": example.question}])]
    return tuple(model.prompt_ids(messages)), tuple(model.images(messages))


def requests(model: ChatVLM, examples: list[Example], **sampling: Any) -> list[Request]:
    settings = Sampling(**{"max_tokens": 96, **sampling})
    return [Request(*first_prompt(model, example), settings) for example in examples]


def test_answers_and_decisions_on_200_documents_are_those_of_the_local_engine(local: ChatVLM, remote: ChatVLM) -> None:
    examples = list(rendered(DOCUMENTS // 2, seed=11))
    ours = run(local, examples, store=local.image_store)
    zoomed = sum(state["usage"]["zooms"] > 0 for state in ours)
    assert 0 < zoomed < DOCUMENTS, "both decisions are needed"
    far = distance(ours, run(remote, examples, store=local.image_store))
    print(zoomed, far)
    assert (far.answers, far.decisions) == (DOCUMENTS, DOCUMENTS)
    assert far.logprob <= TOLERANCE


@pytest.mark.parametrize(("temperature", "tolerance"), [(1.0, TOLERANCE), (0.7, 0.01)])  # .7: see VLLMEngine
def test_sampled_tokens_have_the_logprobs_of_a_plain_forward_pass(
    engine: VLLMEngine,
    local: ChatVLM,
    yardstick: TransformersEngine,
    few: list[Example],
    temperature: float,
    tolerance: float,
) -> None:
    asked = requests(local, few, temperature=temperature, seed=1)
    for request, generation in zip(asked, engine.generate(asked), strict=True):
        plain = rescored(yardstick, request.token_ids, generation.token_ids, request.images, temperature=temperature)
        assert generation.logprobs == pytest.approx(plain, abs=tolerance)


def test_a_seed_gives_one_reply_in_any_company(engine: VLLMEngine, local: ChatVLM, few: list[Example]) -> None:
    own, *others = requests(local, few, temperature=1.5, seed=1)
    [alone] = engine.generate([own])
    assert engine.generate([*others, own])[-1].token_ids == alone.token_ids


def test_a_bias_steers_and_leaves_the_logprobs_alone(
    engine: VLLMEngine, local: ChatVLM, yardstick: TransformersEngine, few: list[Example]
) -> None:
    wanted = local.processor.tokenizer.encode("7", add_special_tokens=False)[0]
    [request] = requests(local, few[:1], logit_bias={wanted: 100.0}, max_tokens=4)
    [generation] = engine.generate([request])
    assert generation.token_ids == (wanted,) * 4
    plain = rescored(yardstick, request.token_ids, generation.token_ids, request.images, temperature=0.0)
    assert generation.logprobs == pytest.approx(plain, abs=TOLERANCE)


@pytest.mark.parametrize("value", [20.0, 2.0, -2.0, -20.0])
def test_a_zoom_bias_acts_at_the_decision_as_in_the_local_engine(
    engine: VLLMEngine, local: ChatVLM, yardstick: TransformersEngine, few: list[Example], value: float
) -> None:
    asked = requests(local, few, call_bias=local._codec.call_bias(value, ""))
    ours, theirs = local.engine.generate(asked), engine.generate(asked)
    assert [reply.token_ids for reply in theirs] == [reply.token_ids for reply in ours]
    for request, reply in zip(asked, theirs, strict=True):
        plain = rescored(yardstick, request.token_ids, reply.token_ids, request.images, temperature=0.0)
        assert reply.logprobs == pytest.approx(plain, abs=TOLERANCE)


def test_banned_and_image_tokens_are_not_sampled_however_they_are_pushed(
    engine: VLLMEngine, local: ChatVLM, few: list[Example]
) -> None:
    own = local.processor.tokenizer.encode("7", add_special_tokens=False)[0]
    never = engine.banned | {own}
    asked = requests(local, few, logit_bias=dict.fromkeys(never, 100.0), banned=frozenset({own}), temperature=1.0)
    for generation in engine.generate(asked):
        assert not never & set(generation.token_ids)


def test_a_reply_ends_with_its_stop_token_its_length_or_the_context(
    engine: VLLMEngine, local: ChatVLM, few: list[Example]
) -> None:
    [whole] = engine.generate(requests(local, few[:1]))
    assert (whole.finish_reason, whole.token_ids[-1] in engine.stop) == ("stop", True)
    [stopped] = engine.generate(requests(local, few[:1], stop=frozenset(whole.token_ids[2:3])))
    assert stopped.token_ids == whole.token_ids[:3]
    never = dict.fromkeys(engine.stop, -100.0)
    [cut] = engine.generate(requests(local, few[:1], max_tokens=5, logit_bias=never))
    assert (cut.finish_reason, len(cut.token_ids)) == ("length", 5)
    context = engine.served_model().context
    assert context is not None
    long = Request((whole.token_ids[0],) * (context - 10), (), Sampling(max_tokens=96, logit_bias=never))
    [full] = engine.generate([long])
    assert (full.finish_reason, full.prompt_tokens + len(full.token_ids)) == ("length", context)


def test_streamed_tokens_are_the_reply_and_may_be_cut_off(
    engine: VLLMEngine, local: ChatVLM, few: list[Example]
) -> None:
    [request] = requests(local, few[:1])
    [whole] = engine.generate([request])
    heard: list[int] = []
    [streamed] = engine.generate([Request(request.token_ids, request.images, request.sampling, heard.append)])
    assert (tuple(heard), streamed.token_ids) == (whole.token_ids, whole.token_ids)
    assert streamed.logprobs == pytest.approx(whole.logprobs, abs=TOLERANCE)
    [cut] = engine.generate([Request(request.token_ids, request.images, request.sampling, lambda token: True)])
    assert (cut.token_ids, cut.finish_reason) == (whole.token_ids[:1], "stop")


def test_the_second_turn_finds_the_first_in_the_prefix_cache(local: ChatVLM, remote: ChatVLM) -> None:
    small_print = [example for example in rendered(20, seed=171) if "small" in example.source]
    two_turns = [state for state in run(remote, small_print, store=local.image_store) if len(records(state)) == 2]
    assert two_turns
    for state in two_turns:
        first, second = [usage for message in state["messages"] if (usage := getattr(message, "usage_metadata", None))]
        known = first["total_tokens"] - 1
        assert known - 32 < second["input_token_details"]["cache_read"] <= known  # whole blocks of 32 tokens


def test_another_image_under_the_same_text_hits_nothing_of_the_first(
    engine: VLLMEngine, local: ChatVLM, few: list[Example]
) -> None:
    [one] = requests(local, few[:1])
    before = one.token_ids.index(local.processor.image_token_id)
    engine.generate([one])
    [again] = engine.generate([one])
    assert again.prompt_tokens - again.prefilled_tokens > before
    pixels = one.images[0].pixels.point(lambda value: value ^ 1)
    [other] = engine.generate([Request(one.token_ids, (EngineImage("other", pixels),), one.sampling)])
    assert other.prompt_tokens - other.prefilled_tokens <= before
