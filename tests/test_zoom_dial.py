"""The dial: `zoom_bias` acts on the token that decides about a call, and nowhere else, in every engine."""

from __future__ import annotations

import asyncio
import random
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage
from PIL import Image

from tests.checkpoints import make_processor
from tests.fake_vllm import FakeVLLM, Policy
from tests.fakes import scripted_vlm
from vtagent.graphs.zoom import ZoomContext, create_zoom_agent
from vtagent.models import ChatVLM
from vtagent.models.codec import Codec
from vtagent.models.decision import CallBias, Decision, reply_opening
from vtagent.models.engine import EngineImage, Request, Sampling
from vtagent.models.families import tool_template
from vtagent.models.local.sampling import BatchSampler
from vtagent.models.processor import VLProcessor
from vtagent.models.vllm.engine import VLLMEngine
from vtagent.protocol import is_well_formed, reply_of
from vtagent.training.data import rendered
from vtagent.training.measure.asking import evaluate
from vtagent.training.measure.modes import biased
from vtagent.training.measure.outcomes import Outcome
from vtagent.views import View

CODEC = Codec(make_processor(chat_template=tool_template()).tokenizer, tool_template())
CALL = '<tool_call>\n{"name": "zoom_image", "arguments": {}}\n</tool_call>'
THOUGHT = "<think>A <tool_call> would be <answer>wrong</answer>.</think>"


def places(text: str, value: float, opening: str = "") -> list[str]:
    """For each token of a reply, its text if the bias acts on it."""
    decision = Decision(CODEC.call_bias(value, opening))
    acted = []
    for token in CODEC.encode(text):
        if decision.place == "decision":
            acted.append(CODEC.token(token))
        decision.push(token)
    return acted


# --- where it acts ---


@pytest.mark.parametrize(
    ("reply", "acted"),
    [
        (f"{THOUGHT}<answer>iiiiii</answer>", ["<think>", "<answer>"]),
        (f"{THOUGHT}\n\n{CALL}\n{CALL}", ["<think>", "\n", "\n", "<tool_call>"]),
        (f"{CALL}", ["<tool_call>"]),
        ("<answer>4</answer>", ["<answer>"]),
    ],
)
@pytest.mark.parametrize("value", [20.0, -20.0])
def test_it_acts_up_to_the_first_tag_outside_of_the_thought(reply: str, acted: list[str], value: float) -> None:
    assert places(reply, value) == acted


def test_a_positive_bias_does_not_break_a_sentence_and_a_negative_one_follows_it_to_its_call() -> None:
    said = f"Let me look.\n{CALL}\n{CALL}"
    assert places(said, 20.0) == ["L"]
    acted = places(said, -20.0)
    assert ("".join(acted), acted[-1]) == ("Let me look.\n<tool_call>", "<tool_call>")


@pytest.mark.parametrize(
    ("opening", "reply", "acted"),
    [
        ("<think>\n", "It is.</think>\n<answer>4</answer>", ["\n", "<answer>"]),  # a thinking model's prompt
        ("<think>\n\n</think>\n\n", "<answer>4</answer>", ["<answer>"]),  # its prompt without thinking
        ("<think>Easy.</think>", CALL, ["<tool_call>"]),
        ("<think>Easy.</think><tool_call>", '{"name": "zoom_image"}', []),
        ("<answer>", "4</answer>", []),
    ],
)
@pytest.mark.parametrize("value", [20.0, -20.0])
def test_what_the_prompt_has_begun_counts(opening: str, reply: str, acted: list[str], value: float) -> None:
    assert places(reply, value, opening) == acted


def test_the_beginning_of_a_reply_is_read_from_its_prompt() -> None:
    assert reply_opening("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n") == "<think>\n"
    assert reply_opening("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n") == ""
    assert reply_opening("no turns") == ""


PIECES = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "<tool_call>", "</tool_call>", "a", " ", "\n"]
)


@given(st.lists(PIECES, max_size=12), st.sampled_from([3.0, -3.0]), st.integers(1, 8))
def test_where_it_acts_does_not_depend_on_how_thoughts_are_cut_into_tokens(
    pieces: list[str], value: float, size: int
) -> None:
    whole = Decision(CODEC.call_bias(value, ""))
    for piece in pieces:
        whole.push(CODEC.encode(piece)[0])
    texts = ["<tool_call>", "<answer>"]
    cut: list[int] = []
    for piece in pieces:
        parts = [piece[at : at + size] for at in range(0, len(piece), size)] if "think" in piece else [piece]
        texts += parts
        cut += [texts.index(part) for part in parts]
    bias = CallBias(
        value, call_id=0, thought_id=-1, thought_end_id=None, answer_id=1, opening="", text_of=texts.__getitem__
    )
    parted = Decision(bias)
    for token in cut:
        parted.push(token)
    assert parted.place == whole.place


# --- how the local engine draws ---


def draw(logits: dict[int, float], decision: Decision, *, times: int = 1, temperature: float = 0.0) -> list[int]:
    row = torch.full((1, len(CODEC._tokenizer)), -30.0)
    for token, value in logits.items():
        row[0, token] = value
    sampler = BatchSampler(
        [Sampling(temperature=temperature)], [random.Random(0)], frozenset(), torch.device("cpu"), [decision]
    )
    return [sampler(row)[0][0] for _ in range(times)]


IDS = {name: CODEC.encode(name)[0] for name in ("<think>", "</think>", "<answer>", "<tool_call>", "a", "\n")}


def at(opening: str, value: float) -> Decision:
    return Decision(CODEC.call_bias(value, opening))


def test_a_thought_that_the_model_would_begin_is_never_cut_off() -> None:
    likes_thought = {IDS["<think>"]: 5.0, IDS["<tool_call>"]: 0.0}
    assert draw(likes_thought, at("", 20.0)) == [IDS["<think>"]]
    likes_text = {IDS["<think>"]: 1.0, IDS["a"]: 2.0}
    assert draw(likes_text, at("", 40.0)) == [IDS["<tool_call>"]]
    assert draw(likes_text, at("", 1.0)) == [IDS["a"]]


def test_white_space_before_the_decision_stays() -> None:
    assert draw({IDS["\n"]: 5.0, IDS["<answer>"]: 1.0}, at("<think>a</think>", 40.0)) == [IDS["\n"]]
    assert draw({IDS["\n"]: 0.0, IDS["<answer>"]: 1.0}, at("<think>a</think>", 40.0)) == [IDS["<tool_call>"]]


def test_nothing_is_biased_inside_the_thought_or_after_the_decision() -> None:
    near = {IDS["a"]: 1.0, IDS["<tool_call>"]: 0.0}
    assert draw(near, at("<think>", 20.0)) == [IDS["a"]]
    assert draw(near, at("<answer>", 20.0)) == [IDS["a"]]
    assert draw({IDS["a"]: 0.0, IDS["<tool_call>"]: 1.0}, at("<think>", -20.0)) == [IDS["<tool_call>"]]


@pytest.mark.parametrize("value", [1.5, -1.5])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_odds_of_a_call_shift_by_the_bias_before_the_temperature(value: float, temperature: float) -> None:
    drawn = draw(
        {IDS["<answer>"]: 0.0, IDS["<tool_call>"]: 0.2},
        at("<think>a</think>", value),
        times=6000,
        temperature=temperature,
    )
    expected = torch.tensor((0.2 + value) / temperature).sigmoid().item()
    assert drawn.count(IDS["<tool_call>"]) / 6000 == pytest.approx(expected, abs=0.03)


def test_logprobs_stay_those_of_the_unbiased_logits() -> None:
    row = torch.full((1, len(CODEC._tokenizer)), -30.0)
    row[0, IDS["<answer>"]] = 1.0
    sampler = BatchSampler(
        [Sampling()], [random.Random(0)], frozenset(), torch.device("cpu"), [at("<think>a</think>", 50.0)]
    )
    tokens, logprobs = sampler(row)
    assert tokens == [IDS["<tool_call>"]]
    assert logprobs == pytest.approx([row[0].log_softmax(-1)[IDS["<tool_call>"]].item()])


# --- how a server draws, whose logit_bias holds for every token ---


def toy_logits(natural: str, said: list[int]) -> dict[int, float]:
    """A model that says `natural`, would rather call where that is 4 less likely, and finishes the calls it begins."""
    script, call = CODEC.encode(natural), CODEC.encode(CALL)
    end = CODEC._tokenizer.eos_token_id
    for place in range(len(said)):
        if said[: place + 1] != script[: place + 1]:  # it was made to say something else: a call
            rest = call[len(said) - place :] if said[place] == IDS["<tool_call>"] else []
            return {rest[0] if rest else end: 9.0, IDS["<tool_call>"]: -1.0}
    return {script[len(said)] if len(said) < len(script) else end: 4.0, IDS["<tool_call>"]: 0.0}


def locally(natural: str, value: float, opening: str) -> list[int]:
    """What the local engine's sampler makes of the toy model."""
    decision, said = at(opening, value), list[int]()
    while not said or said[-1] != CODEC._tokenizer.eos_token_id:
        said += draw(toy_logits(natural, said), decision)
        decision.push(said[-1])
    return said


def toy_server(natural: str, prompt_length: int) -> Policy:
    """The toy model as a server samples from it: greedily, with the options of the request."""

    def policy(body: dict[str, Any], prompt: list[int]) -> list[int]:
        options, said, new = body["sampling_params"], prompt[prompt_length:], list[int]()
        while len(new) < options["max_tokens"]:
            logits = toy_logits(natural, [*said, *new])
            bias = {int(token): added for token, added in options["logit_bias"].items()}
            ranked = {token: logits.get(token, -30.0) + bias.get(token, 0.0) for token in {*logits, *bias}}
            new.append(max(ranked, key=lambda token: (ranked[token], -token)))
            if new[-1] in options["stop_token_ids"]:
                break
        return new

    return policy


NATURAL = {
    "thinks": f"{THOUGHT}<answer>4</answer>",
    "thinks and breaks the line": f"{THOUGHT}\n\n<answer>4</answer>",
    "thinks and calls": f"{THOUGHT}\n{CALL}",
    "answers": "<answer>4</answer>",
    "calls": CALL,
    "speaks and calls": f"Let me look.\n{CALL}",
    "speaks": "It is 4.",
}


@pytest.fixture(scope="module")
def processor() -> VLProcessor:
    return make_processor(chat_template=tool_template())


@pytest.mark.parametrize("natural", NATURAL.values(), ids=NATURAL.keys())
@pytest.mark.parametrize("value", [20.0, 5.0, 3.0, -3.0, -20.0])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_server_samples_what_the_local_engine_samples(
    natural: str, value: float, streamed: bool, processor: VLProcessor
) -> None:
    prompt = tuple(CODEC.encode("<|im_start|>assistant\n"))
    seen: list[int] = []
    sampling = Sampling(max_tokens=200, call_bias=CODEC.call_bias(value, ""))
    with FakeVLLM(processor, toy_server(natural, len(prompt))) as server, VLLMEngine(server.url, processor) as engine:
        request = Request(prompt, (), sampling, seen.append if streamed else None)
        [reply] = engine.generate([request])
    assert list(reply.token_ids) == locally(natural, value, "")
    assert seen == (list(reply.token_ids) if streamed else [])
    assert len(reply.logprobs) == len(reply.token_ids)
    assert (reply.finish_reason, reply.prompt_tokens) == ("stop", len(prompt))
    assert len(server.generations) <= 8


def test_each_part_of_a_reply_is_sent_with_the_images_of_its_prompt(processor: VLProcessor) -> None:
    factor = processor.vision.factor
    image = EngineImage("a", Image.new("RGB", (3 * factor, 2 * factor)))
    prompt = tuple(CODEC.encode("<|vision_start|><|image_pad|><|vision_end|>?<|im_start|>assistant\n"))
    sampling = Sampling(max_tokens=200, call_bias=CODEC.call_bias(20.0, ""))
    policy = toy_server(NATURAL["thinks"], len(prompt) + 5)
    with FakeVLLM(processor, policy) as server, VLLMEngine(server.url, processor) as engine:
        [reply] = engine.generate([Request(prompt, (image,), sampling)])
    assert list(reply.token_ids) == locally(NATURAL["thinks"], 20.0, "")
    assert (reply.prompt_tokens, reply.image_tokens) == (len(prompt) + 5, 6)
    assert [len(body["content_parts"]) for body in server.generations] == [1] * len(server.generations)


def test_a_reply_in_parts_ends_where_it_is_told_to(processor: VLProcessor) -> None:
    prompt = tuple(CODEC.encode("<|im_start|>assistant\n"))
    bias = CODEC.call_bias(20.0, "")
    natural = NATURAL["thinks"]
    whole = locally(natural, 20.0, "")
    after_thought = whole.index(IDS["<tool_call>"], whole.index(IDS["</think>"]))
    with FakeVLLM(processor, toy_server(natural, len(prompt))) as server:
        for length in (1, 2, after_thought, after_thought + 1, len(whole) - 1):
            with VLLMEngine(server.url, processor) as engine:
                [cut] = engine.generate([Request(prompt, (), Sampling(max_tokens=length, call_bias=bias))])
                assert (list(cut.token_ids), cut.finish_reason) == (whole[:length], "length")
            with VLLMEngine(server.url, processor, context=len(prompt) + length) as engine:
                [cut] = engine.generate([Request(prompt, (), Sampling(max_tokens=200, call_bias=bias))])
                assert list(cut.token_ids)[: len(cut.token_ids)] == whole[: len(cut.token_ids)]
            with VLLMEngine(server.url, processor) as engine:
                seen: list[int] = []

                def told(token: int, seen: list[int] = seen, length: int = length) -> bool:
                    seen.append(token)
                    return len(seen) == length

                [cut] = engine.generate([Request(prompt, (), Sampling(max_tokens=200, call_bias=bias), told)])
                assert (list(cut.token_ids), cut.finish_reason, seen) == (whole[:length], "stop", whole[:length])


def test_each_part_of_a_reply_has_a_seed_of_its_own_and_repeats_with_it(processor: VLProcessor) -> None:
    prompt = tuple(CODEC.encode("<|im_start|>assistant\n"))
    sampling = Sampling(temperature=1.0, seed=7, max_tokens=200, call_bias=CODEC.call_bias(20.0, ""))
    seeds = []
    for _ in range(2):
        with FakeVLLM(processor, toy_server(NATURAL["thinks"], len(prompt))) as server:
            with VLLMEngine(server.url, processor) as engine:
                engine.generate([Request(prompt, (), sampling)])
            seeds.append([body["sampling_params"]["seed"] for body in server.generations])
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == len(seeds[0]) >= 4


# --- what a call asks of its engine ---


def test_a_call_carries_its_bias_and_a_reply_that_cannot_call_has_none() -> None:
    model = scripted_vlm(["x"] * 4)
    model.invoke("Hi", zoom_bias=1.0, logit_bias={5: 1.0}, tool_choice="auto")
    model.invoke("Hi", zoom_bias=1e300, tool_choice="auto")
    model.invoke("Hi", tool_choice="auto")
    model.invoke("Hi", zoom_bias=1.0)
    first, huge, plain, answer = (request.sampling for request in model.engine.requests)
    assert first.call_bias is not None
    assert (first.call_bias.value, first.call_bias.call_id) == (1.0, model._codec.tool_call_id)
    assert first.logit_bias == {5: 1.0}
    assert huge.call_bias is not None
    assert huge.call_bias.value == 1e4
    assert (plain.call_bias, answer.call_bias) == (None, None)


# --- the bundled policies ---


@cache
def outcomes(name: str, mode: str) -> list[Outcome]:
    model = ChatVLM.from_pretrained(name, max_tokens=96)
    return asyncio.run(evaluate(model, list(rendered(12, seed=91)), [mode]))


@pytest.mark.parametrize("name", ["base", "zoom"])
@pytest.mark.parametrize(("bias", "mode", "zooms"), [(20.0, "forced-zoom", 1), (-20.0, "forced-direct", 0)])
def test_a_large_bias_always_or_never_zooms_and_answers_as_when_forced(
    name: str, bias: float, mode: str, zooms: int
) -> None:
    steered, forced = outcomes(name, biased(bias)), outcomes(name, mode)
    assert [outcome.zooms for outcome in steered] == [zooms] * 24
    assert [outcome.answer for outcome in steered] == [outcome.answer for outcome in forced]
    assert all(outcome.answer for outcome in steered)


@pytest.mark.parametrize("bias", [20.0, -20.0])
def test_replies_under_a_large_bias_are_well_formed(bias: float) -> None:
    model = ChatVLM.from_pretrained("zoom", max_tokens=96)
    agent = create_zoom_agent(model)
    for example in rendered(4, seed=92):
        block = View(model.image_store.put(example.image)).block()
        blocks: list[Any] = [block, {"type": "text", "text": example.question}]
        state = agent.invoke({"messages": [HumanMessage(blocks)]}, context=ZoomContext(zoom_bias=bias))
        replies = [message for message in state["messages"] if isinstance(message, AIMessage)]
        assert all(is_well_formed(reply_of(reply)) for reply in replies), [reply.text for reply in replies]
        assert len(replies) == (2 if bias > 0 else 1)
