"""LangChain's integration tests, offline: for ChatVLM with a scripted policy, and for zoom_image."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ChatModelIntegrationTests, ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from tests.checkpoints import make_processor
from tests.fakes import ScriptedEngine
from tests.image_samples import encode, quarters
from tests.test_chat_standard import OnlyKnownSkips
from vtagent.images import MemoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.models.engine import Request
from vtagent.models.families import tool_template
from vtagent.tools import create_zoom_tool
from vtagent.views import View
from vtagent.visual_tokens import QWEN3_VL

PROCESSOR = make_processor("qwen3_vl", chat_template=tool_template())

CALLS: dict[str, dict[str, Any]] = {
    "magic_function": {"input": 3},
    "magic_function_no_args": {},
    "greeting_generator": {"answer_style": "Pirate"},
    "get_weather": {"location": "San Francisco, CA"},
    "unicode_customer": {"customer_name": "你好啊集团", "description": "A technology company"},
    "Joke": {"setup": "Why do cats win?", "punchline": "They have nine lives."},
    "JokeDict": {"setup": "Why do cats win?", "punchline": "They have nine lives."},
}
"""What the scripted policy calls each tool of the standard tests with."""


def obliging(request: Request, prompt: str) -> str:
    """Calls the first tool that the prompt offers, unless one has just answered; says hello where there is none.

    A reply that was begun for it (`tool_choice`) is gone on with.
    """
    known = [name for name in re.findall(r'"name": "(\w+)", "description"', prompt) if name in CALLS]
    asked, _, begun = prompt.rpartition("<|im_start|>user\n")[2].rpartition("<|im_start|>assistant\n")
    if not known or "<tool_response>" in asked:
        return "<think>Easy.</think>\n\n<answer>Hello.</answer>"
    name = next((name for name in known if f'"{name}"' in begun), known[0])
    arguments = CALLS[name]
    if named := re.search("named '(.+?)'", asked):
        arguments = {**arguments, "customer_name": named[1]}
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    reply = f"<tool_call>\n{call}\n</tool_call>"
    return reply.removeprefix(begun) if begun else f"<think>Let me call it.</think>\n\n{reply}"


class TestChatVLMIntegration(OnlyKnownSkips, ChatModelIntegrationTests):
    """The standard tests, over an engine whose policy obliges; the images that they would fetch are ours."""

    @pytest.fixture(autouse=True)
    def _offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(httpx, "get", lambda url, **kwargs: httpx.Response(200, content=encode(quarters())))

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatVLM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"engine": ScriptedEngine(PROCESSOR, obliging), "processor": PROCESSOR}

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return False  # a loaded checkpoint is one model


STORE = MemoryImageStore()
SHOWN = [HumanMessage([View(STORE.put(encode(quarters((640, 480)))), scale=0.5).block()]), AIMessage("")]


class _ZoomImage:
    """`zoom_image`, asked about a page that was shown at half of both sides."""

    @property
    def tool_constructor(self) -> BaseTool:
        return create_zoom_tool(image_store=STORE, vision=QWEN3_VL)

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"region": [0, 0, 500, 500], "image": 1, "messages": SHOWN}


class TestZoomImageUnit(OnlyKnownSkips, _ZoomImage, ToolsUnitTests):
    """The standard unit tests for tools."""


class TestZoomImageIntegration(OnlyKnownSkips, _ZoomImage, ToolsIntegrationTests):
    """The standard integration tests for tools."""
