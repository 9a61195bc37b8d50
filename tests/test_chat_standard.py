"""ChatVLM passes LangChain's own unit tests for chat models."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests

from tests.checkpoints import make_processor
from tests.fakes import ScriptedEngine
from vtagent.models.chat import ChatVLM
from vtagent.models.families import tool_template

PROCESSOR = make_processor("qwen3_vl", chat_template=tool_template())


class TestChatVLM(ChatModelUnitTests):
    """The standard tests, over a scripted engine."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatVLM

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"engine": ScriptedEngine(PROCESSOR, ["Hello."]), "processor": PROCESSOR}

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True
