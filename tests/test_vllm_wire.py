"""Reading a vLLM server's answers: chunks add up, and log-probabilities are at the request's temperature."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vtagent.models.engine import EngineImage, Generation, Sampling
from vtagent.models.vllm.wire import DataURLs, ReplyAccumulator

PROMPT = [1, 2, 3]
logits = st.lists(st.floats(-20, 20), min_size=2, max_size=20)


def chunk(tokens: list[int], finish: str | None = None, **more: Any) -> dict[str, Any]:
    told = [{"token_id": token, "logprob": -token / 8} for token in tokens]
    return {"choices": [{"token_ids": tokens, "logprobs": {"content": told}, "finish_reason": finish}], **more}


def read(*chunks: Any) -> Generation:
    reply = ReplyAccumulator(Sampling())
    for part in chunks:
        reply.add(part)
    return reply.generation(PROMPT, 0, frozenset())


@given(st.lists(st.lists(st.integers(0, 99), max_size=4), min_size=1).filter(lambda parts: any(parts)))
def test_a_reply_is_the_same_however_it_is_cut_up(parts: list[list[int]]) -> None:
    whole = [token for part in parts for token in part]
    together = read(chunk(whole, "stop", prompt_token_ids=PROMPT))
    first = {"choices": [], "prompt_token_ids": PROMPT}
    assert read(first, *[chunk(part) for part in parts], chunk([], "stop")) == together


@given(logits, st.floats(0.05, 3.0), st.data())
def test_logprobs_are_those_of_the_logits_divided_by_the_temperature(
    logits: list[float], temperature: float, data: st.DataObject
) -> None:
    token = data.draw(st.integers(0, len(logits) - 1))
    raw = log_softmax(logits)
    told = [{"token_id": place, "logprob": value} for place, value in enumerate(raw)]
    entry = {**told[token], "top_logprobs": told}
    reply = ReplyAccumulator(Sampling(temperature=temperature))
    reply.add({"choices": [{"token_ids": [token], "logprobs": {"content": [entry]}, "finish_reason": "stop"}]})
    wanted = log_softmax([value / temperature for value in logits])[token] if temperature != 1.0 else raw[token]
    assert reply.logprobs == pytest.approx([wanted], abs=1e-6)


def log_softmax(logits: list[float]) -> list[float]:
    highest = max(logits)
    total = highest + math.log(sum(math.exp(value - highest) for value in logits))
    return [value - total for value in logits]


def noise_image(name: str) -> EngineImage:
    return EngineImage(name, Image.effect_noise((32, 32), 50).convert("RGB"))


def test_an_image_is_written_once_while_it_is_kept() -> None:
    urls, image = DataURLs(), noise_image("a")
    assert urls.of(image) is urls.of(EngineImage("a", image.pixels.copy()))


def test_the_kept_urls_stay_inside_their_bound() -> None:
    one = len(DataURLs().of(noise_image("a")))
    urls = DataURLs(limit=3 * one)
    first = urls.of(noise_image("first"))
    for number in range(20):
        urls.of(noise_image(str(number)))
        assert sum(map(len, urls._urls._values.values())) == urls._urls.total <= 3 * one
    assert urls.of(noise_image("first")) is not first
