"""ZoomMiddleware in an agent of deepagents, which `make test-versions` installs with the newest versions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat, asked, picture
from vtagent.graphs.middleware import ZoomMiddleware

deepagents = pytest.importorskip("deepagents")


def test_a_deep_agent_looks_cheaply_first_and_zooms() -> None:
    model = ScriptedChat(lines=[ZOOM, ANSWER])
    agent = deepagents.create_deep_agent(model, middleware=[ZoomMiddleware()])
    state: dict[str, Any] = agent.invoke({"messages": [asked("What is the total?", picture())]})
    assert "48.10" in state["messages"][-1].text
    assert state["zoom"]["usage"]["zooms"] == 1
    assert {"zoom_image", "read_file", "task"} <= set(model.offered[0])
