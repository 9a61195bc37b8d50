"""Both families, served as documented, sample the tokens of the local engine, and see images in tool messages.

The checkpoints are small and random, so their replies say nothing; every pixel and every token changes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI
from PIL import Image
from pydantic import SecretStr

from tests.checkpoints import FAMILIES, FamilyName, make_model, make_processor
from tests.rescoring import rescored
from tests.vllm.server import VLLMServer
from vtagent.images import MemoryImageStore
from vtagent.models.engine import EngineImage, Request, Sampling
from vtagent.models.families import tool_template
from vtagent.models.local.engine import TransformersEngine
from vtagent.models.vllm.engine import VLLMEngine
from vtagent.models.vllm.weights import save_for_server
from vtagent.tools.zoom_image import create_zoom_tool
from vtagent.views import data_url

IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
DOCUMENTED = {"qwen3_vl": "Qwen/Qwen3-VL-8B-Instruct", "qwen2_5_vl": "Qwen/Qwen2.5-VL-7B-Instruct"}
TOLERANCE = 1e-3


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> FamilyName:
    name: FamilyName = request.param
    return name


@pytest.fixture(scope="module")
def checkpoint(family: FamilyName, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """vLLM's attention on a CPU wants heads of 32, twice those of the other tests' checkpoints."""
    folder = tmp_path_factory.mktemp(family)
    processor = make_processor(family, chat_template=tool_template())
    make_model(family, processor, heads=2).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def server(family: FamilyName, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    (log.parent / "tool_chat.jinja").write_text(tool_template(), encoding="utf-8")
    server = VLLMServer(checkpoint, DOCUMENTED[family], log)
    server.launch()
    try:
        yield server.ready()
    finally:
        server.kill()


@pytest.fixture(scope="module")
def here(checkpoint: Path) -> Iterator[TransformersEngine]:
    with TransformersEngine.from_pretrained(checkpoint) as engine:
        yield engine


def noise_image(engine: TransformersEngine, seed: int, columns: int, rows: int) -> EngineImage:
    factor = engine.processor.vision.factor
    noise = np.random.default_rng(seed).integers(0, 255, (rows * factor, columns * factor, 3))
    return EngineImage(f"noise-{seed}", Image.fromarray(noise.astype(np.uint8)))


def test_prompts_with_no_one_and_several_images_get_the_same_tokens_and_logprobs(
    server: VLLMServer, here: TransformersEngine
) -> None:
    a, b, c = noise_image(here, 1, 3, 2), noise_image(here, 2, 1, 5), noise_image(here, 3, 4, 4)
    greedy, sampled = Sampling(max_tokens=12), Sampling(max_tokens=12, temperature=1.0, seed=1)
    asked = [
        Request(tuple(here.processor.tokenizer.encode(text)), images, sampling)
        for text, images, sampling in [
            ("What is the total?", (), greedy),
            (f"{IMAGE}What?", (a,), greedy),
            (f"One: {IMAGE} and two: {IMAGE}. Which is the receipt?", (a, b), sampled),
            (f"{IMAGE}{IMAGE} so {IMAGE}", (c, a, b), sampled),
        ]
    ]
    with VLLMEngine(server.url, here.processor, timeout=600.0) as engine:
        replies = engine.generate(asked)
    for request, reply, own in zip(asked, replies, here.generate(asked), strict=True):
        plain = rescored(
            here, request.token_ids, reply.token_ids, request.images, temperature=request.sampling.temperature
        )
        assert reply.logprobs == pytest.approx(plain, abs=TOLERANCE)
        assert (reply.prompt_tokens, reply.image_tokens) == (own.prompt_tokens, own.image_tokens)
        if request.sampling.temperature == 0.0:
            assert reply.token_ids == own.token_ids


def said(server: VLLMServer, here: TransformersEngine, image: EngineImage) -> AIMessage:
    """What `ChatOpenAI` is answered in a conversation with tools, one of whose results shows an image."""
    model = ChatOpenAI(
        model=str(server.folder),
        base_url=f"{server.url}/v1",
        api_key=SecretStr("none"),
        temperature=0,
        max_completion_tokens=12,
        logprobs=True,
        timeout=600,
        extra_body={"return_tokens_as_token_ids": True},
    )
    shown = {"type": "image_url", "image_url": {"url": data_url(image.pixels)}}
    messages = [
        HumanMessage("What is the total?"),
        AIMessage("", tool_calls=[{"id": "1", "name": "zoom_image", "args": {}}]),
        ToolMessage([{"type": "text", "text": "Closer."}, shown], tool_call_id="1"),
    ]
    tool = create_zoom_tool(image_store=MemoryImageStore(), vision=here.processor.vision)
    answer = model.bind_tools([tool]).invoke(messages)
    assert isinstance(answer, AIMessage)
    return answer


def test_an_image_in_a_tool_message_is_seen(server: VLLMServer, here: TransformersEngine) -> None:
    small, large, other = noise_image(here, 1, 2, 2), noise_image(here, 1, 4, 4), noise_image(here, 9, 4, 4)
    answers = [said(server, here, image) for image in (small, large, other)]
    prompts = [answer.usage_metadata["input_tokens"] for answer in answers if answer.usage_metadata]
    assert [size - prompts[0] for size in prompts] == [0, 16 - 4, 16 - 4]
    ids = [[token["token"] for token in answer.response_metadata["logprobs"]["content"]] for answer in answers]
    assert ids[1] != ids[2], "two images of one size"


def test_reloaded_weights_answer_alone(
    family: FamilyName, server: VLLMServer, here: TransformersEngine, tmp_path: Path
) -> None:
    request = Request(
        tuple(here.processor.tokenizer.encode(f"{IMAGE}What?")),
        (noise_image(here, 1, 3, 2),),
        Sampling(max_tokens=12, temperature=1.0, seed=1),
    )
    other = TransformersEngine(make_model(family, here.processor, heads=2, seed=1), here.processor)
    with other, VLLMEngine(server.url, here.processor, timeout=600.0) as engine:
        for number, policy in enumerate((other, here)):
            engine.reload(save_for_server(policy.model, tmp_path / str(number)))
            [reply] = engine.generate([request])
            plain = rescored(policy, request.token_ids, reply.token_ids, request.images, temperature=1.0)
            assert reply.logprobs == pytest.approx(plain, abs=TOLERANCE)
