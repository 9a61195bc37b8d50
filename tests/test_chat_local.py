"""ChatVLM over real (small, random) checkpoints of both families: from the messages to the logits."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from PIL import Image

from tests.checkpoints import FAMILIES, FamilyName, make_checkpoint
from tests.rescoring import rescored
from tests.scripted_chat import picture
from vtagent.errors import ModelError
from vtagent.images import MemoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.models.local.engine import TransformersEngine
from vtagent.models.records import KEY
from vtagent.models.template import with_images_first
from vtagent.views import View


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatVLM]:
    family: FamilyName = request.param
    folder = make_checkpoint(tmp_path_factory.mktemp(family), family)
    model = ChatVLM.from_pretrained(folder, max_tokens=16)
    yield model
    model.engine.close()


@pytest.fixture
def engine(model: ChatVLM) -> TransformersEngine:
    """The model's engine, its caches empty."""
    assert isinstance(model.engine, TransformersEngine)
    model.engine.forget()
    return model.engine


def zoom_image() -> str:
    """See the image at full resolution."""
    return ""


def noise_view(model: ChatVLM, seed: int = 0, *, scale: float = 1.0) -> View:
    noise = np.random.default_rng(seed).integers(0, 255, (170, 230, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return View(model.image_store.put(buffer.getvalue()), scale=scale)


def question(model: ChatVLM, text: str = "What is the total?", seed: int = 0) -> HumanMessage:
    return HumanMessage([noise_view(model, seed, scale=0.5).block(), {"type": "text", "text": text}])


def zoomed_run(model: ChatVLM, *, seed: int, temperature: float) -> list[BaseMessage]:
    """A question, a forced call, the zoomed image, a reply, and one more turn, as a graph would run them."""
    bound = model.bind_tools([zoom_image], temperature=temperature, seed=seed)
    history: list[BaseMessage] = [question(model, seed=seed)]
    history.append(bound.invoke(history, tool_choice="any"))
    history.append(ToolMessage(["230x170", noise_view(model, seed).block()], tool_call_id="1"))
    history.append(bound.invoke(history, tool_choice="none"))
    history.append(HumanMessage("And the tax?"))
    history.append(bound.invoke(history))
    return history


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_zoomed_run_is_token_exact_and_rescoring_gives_its_logprobs(
    model: ChatVLM, engine: TransformersEngine, temperature: float
) -> None:
    history = zoomed_run(model, seed=3, temperature=temperature)
    offered: Any = model.bind_tools([zoom_image])
    ids: list[int] = []
    for place, message in enumerate(history):
        if isinstance(message, AIMessage):
            record = message.response_metadata[KEY]
            prompt = ids + record["prompt_ids"]
            assert model.prompt_ids(history[:place], tools=offered.kwargs["tools"])[: len(ids)] == ids
            images = model.images(history[:place])
            plain = rescored(engine, prompt, record["completion_ids"], images, temperature=temperature)
            assert record["logprobs"] == pytest.approx(plain, abs=1e-4)
            ids = prompt + record["completion_ids"]
    assert model.prompt_ids([*history, HumanMessage("Thanks.")], **offered.kwargs)[: len(ids)] == ids


def test_later_turns_compute_only_what_is_new_and_encode_each_image_once(
    model: ChatVLM, engine: TransformersEngine
) -> None:
    encoded = engine.images_encoded
    history = zoomed_run(model, seed=4, temperature=1.0)
    replies = [message for message in history if isinstance(message, AIMessage)]
    for before, after in pairwise(replies):
        assert before.usage_metadata is not None
        assert after.usage_metadata is not None
        known = before.usage_metadata["total_tokens"] - 1
        assert after.usage_metadata["input_token_details"]["cache_read"] == known
    assert engine.images_encoded - encoded == 2


def test_64_calls_together_say_what_they_say_alone_in_a_fraction_of_the_steps(
    model: ChatVLM, engine: TransformersEngine
) -> None:
    asked = [[question(model, f"What is {i}?", seed=i % 8)] for i in range(64)]
    at = engine.counters.decode_steps
    alone = [model.invoke(messages).content for messages in asked]
    sequential = engine.counters.decode_steps - at
    engine.forget()

    async def together() -> list[BaseMessage]:
        return await asyncio.gather(*(model.ainvoke(messages) for messages in asked))

    at = engine.counters.decode_steps
    replies = asyncio.run(together())
    assert [reply.content for reply in replies] == alone
    assert sequential / (engine.counters.decode_steps - at) >= 4


def test_streaming_shows_tokens_before_the_reply_is_complete(model: ChatVLM, engine: TransformersEngine) -> None:
    long = model.bind(max_tokens=200, logit_bias=dict.fromkeys(engine.stop, -1000.0))
    stream = long.stream([question(model)])
    first = next(stream)
    at = engine.counters.sampled_tokens
    rest = list(stream)
    assert engine.counters.sampled_tokens > at
    whole = long.invoke([question(model)])
    assert "".join(chunk.text for chunk in [first, *rest]) == whole.text


async def test_cancelling_an_async_call_frees_its_row(model: ChatVLM, engine: TransformersEngine) -> None:
    endless = model.bind(max_tokens=3000, logit_bias=dict.fromkeys(engine.stop, -1000.0))
    task = asyncio.create_task(endless.ainvoke([question(model)]))
    while not engine.unfinished_requests:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await model.ainvoke([question(model)])
    while engine.unfinished_requests:
        await asyncio.sleep(0.01)


def test_an_over_long_prompt_is_refused_and_the_profile_says_how_long_is_allowed(model: ChatVLM) -> None:
    assert model.profile is not None
    limit = model.profile["max_input_tokens"]
    with pytest.raises(ModelError, match=f"the model's context ends at {limit}"):
        model.invoke("word " * limit)


def test_one_model_may_follow_another_in_a_conversation(model: ChatVLM) -> None:
    """Records of another tokenizer or template are not taken for one's own."""
    reply = model.invoke([question(model)])
    other = model.model_copy()
    other._codec = type(model._codec)(model.processor.tokenizer, f"{model.processor.chat_template}{{# other #}}")
    history = [question(model), reply, HumanMessage("Go on.")]
    kept = len(reply.response_metadata[KEY]["prompt_ids"])
    assert model.prompt_ids(history)[kept:] != other.prompt_ids(history)[kept:]


def test_a_model_that_cannot_be_found_is_refused_in_one_line(tmp_path: object) -> None:
    with pytest.raises(ModelError) as caught:
        ChatVLM.from_pretrained(f"{tmp_path}/nothing")
    assert "\n" not in str(caught.value)


def test_weights_are_float32_on_a_cpu_and_what_was_asked_for_otherwise(
    model: ChatVLM, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = make_checkpoint(tmp_path_factory.mktemp("dtype"), "qwen3_vl")
    assert ChatVLM.from_pretrained(folder, device="cpu").engine.model.dtype == torch.float32
    half = ChatVLM.from_pretrained(
        folder, device="cpu", dtype=torch.bfloat16, image_store=MemoryImageStore(), max_tokens=4
    )
    assert half.engine.model.dtype == torch.bfloat16
    assert half.invoke([question(half)]).usage_metadata


@pytest.mark.parametrize("name", ["base", "zoom"])
def test_a_bundled_policy_loads_by_its_name_and_answers(name: str) -> None:
    model = ChatVLM.from_pretrained(name, max_tokens=60)
    assert model.model_name == name
    reply = model.bind_tools([zoom_image]).invoke([question(model)])
    assert reply.response_metadata["finish_reason"] in ("stop", "length")
    model.engine.close()


def test_the_bundled_policy_reads_the_same_prompt_whatever_order_a_client_sends() -> None:
    """Agent Chat UI sends the text first; the policies are trained on images first."""
    model = ChatVLM.from_pretrained("zoom", max_tokens=60)
    image, text = noise_view(model, scale=0.5).block(), {"type": "text", "text": "What is the total?"}
    other = noise_view(model, 1, scale=0.5).block()
    image_first, text_first = [HumanMessage([image, other, text])], [HumanMessage([text, image, other])]
    bound: Any = model.bind_tools([zoom_image])
    assert model.prompt_ids(text_first, **bound.kwargs) == model.prompt_ids(image_first, **bound.kwargs)
    first, second = bound.invoke(image_first), bound.invoke(text_first)
    for name in ("prompt_ids", "completion_ids", "prefix"):
        assert first.response_metadata[KEY][name] == second.response_metadata[KEY][name]

    # A record made from one order holds for the other.
    history = [*text_first, first, HumanMessage("And the tax?")]
    known = len(first.response_metadata[KEY]["prompt_ids"] + first.response_metadata[KEY]["completion_ids"])
    assert model.prompt_ids(history, **bound.kwargs)[:known] == [
        *first.response_metadata[KEY]["prompt_ids"],
        *first.response_metadata[KEY]["completion_ids"],
    ]

    as_sent = ChatVLM(engine=model.engine, processor=model.processor, image_store=model.image_store, images_first=False)
    assert as_sent.prompt_ids(image_first) == model.prompt_ids(image_first)
    prompt = as_sent._codec._text(as_sent.prompt_ids(text_first))
    assert prompt.index("What is the total?") < prompt.index("<|image_pad|>")
    model.engine.close()


def recommending(folder: Path, **recommended: Any) -> Path:
    """The checkpoint of `folder` with sampling settings in its generation_config.json."""
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | recommended))
    return folder


@pytest.mark.parametrize(
    ("recommended", "expected"),
    [
        ({}, (0.0, 1.0, 0, 1.0)),
        ({"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20}, (0.7, 0.8, 20, 1.0)),  # Qwen3-VL
        ({"do_sample": True, "temperature": 1e-6, "repetition_penalty": 1.05}, (0.0, 1.0, 0, 1.05)),  # Qwen2.5-VL
        ({"do_sample": False, "temperature": 0.7, "repetition_penalty": 1.1}, (0.0, 1.0, 0, 1.1)),
    ],
)
def test_the_sampling_that_a_checkpoint_recommends_applies(
    recommended: dict[str, Any], expected: tuple[Any, ...], tmp_path: Path
) -> None:
    folder = recommending(make_checkpoint(tmp_path, "qwen3_vl"), **recommended)
    names = ("temperature", "top_p", "top_k", "repetition_penalty")
    model = ChatVLM.from_pretrained(folder, max_tokens=4)
    assert tuple(getattr(model, name) for name in names) == expected
    own = ChatVLM.from_pretrained(folder, temperature=1.0)
    assert tuple(getattr(own, name) for name in names) == (1.0, 1.0, 0, 1.0)


def test_greedy_replies_with_a_penalty_are_those_of_generate(tmp_path: Path) -> None:
    folder = recommending(make_checkpoint(tmp_path, "qwen3_vl"), repetition_penalty=1.3)
    model = ChatVLM.from_pretrained(folder, max_tokens=40)
    engine = model.engine
    [reply] = engine.generate([model._plan([HumanMessage("What is the total?")], None, {}).request])
    prompt = torch.tensor([model.prompt_ids([HumanMessage("What is the total?")])])
    banned = [[token] for token in sorted(engine.banned)]
    plain = engine.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, bad_words_ids=banned, do_sample=False
    )
    assert list(reply.token_ids) == plain[0, prompt.shape[1] :].tolist()
    model.repetition_penalty = 1.0
    [without] = engine.generate([model._plan([HumanMessage("What is the total?")], None, {}).request])
    assert without.token_ids != reply.token_ids


def test_text_between_images_stays_with_them_and_a_question_before_them_comes_after() -> None:
    images = [View(MemoryImageStore().put(picture(width))).block() for width in (64, 96)]
    text = [{"type": "text", "text": word} for word in ("Image 1:", "Image 2:", "Which?")]
    labelled = HumanMessage([text[0], images[0], text[1], images[1], text[2]])
    assert with_images_first([labelled]) == [labelled]
    [moved] = with_images_first([HumanMessage([text[2], *images])])
    assert moved.content == [*images, text[2]]
    [moved] = with_images_first([HumanMessage([text[0], images[0], text[2]])])
    assert moved.content == [images[0], text[0], text[2]]
