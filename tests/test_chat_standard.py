"""ChatVLM passes LangChain's own unit tests for chat models."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, NoReturn

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests

from tests.checkpoints import make_processor
from tests.fakes import ScriptedEngine
from vtagent.models.chat import ChatVLM
from vtagent.models.families import tool_template

PROCESSOR = make_processor("qwen3_vl", chat_template=tool_template())

SKIPPED = {
    "model override": [f"test_{way}_with_model_override" for way in ("invoke", "ainvoke", "stream", "astream")],
    "JSON mode": ["test_json_mode"],
    "PDF as input, PDF in a tool message": ["test_pdf_inputs", "test_pdf_tool_message"],
    "audio as input": ["test_audio_inputs"],
    "VCR cassettes": ["test_stream_time"],
    "set up from environment variables": ["TestChatVLM::test_init_from_env"],
    "serialisation": ["test_serdes"],
}
"""The standard tests that do not apply; tests/README.md, whose rows these are, says why."""


class OnlyKnownSkips:
    """A standard test that skips itself fails unless it is listed, and one that is listed fails if it does not."""

    @pytest.fixture(autouse=True)
    def _only_known_skips(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        reasons, skipped = [], pytest.skip.Exception

        def skip(reason: str) -> NoReturn:
            reasons.append(reason)
            raise skipped(reason)

        monkeypatch.setattr(pytest, "skip", skip)
        yield
        assert bool(reasons) == request.node.nodeid.endswith(tuple(chain(*SKIPPED.values()))), reasons


class TestChatVLM(OnlyKnownSkips, ChatModelUnitTests):
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
