"""The last node: takes the answer out of the last reply, or of the tool that answers in the model's place."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import RunnableConfig

from vtagent.graphs.node import Node, ZoomRuntime
from vtagent.graphs.state import ZoomContext, ZoomState
from vtagent.graphs.tool_calls import answer_of
from vtagent.protocol import parse_reply, was_cut


class AfterTools:
    """Says whether tools whose answers are to be returned as they are end the run, as in `create_agent`.

    Args:
        direct: The names of the tools with `return_direct`.
    """

    def __init__(self, direct: Collection[str]) -> None:
        self._direct = set(direct)

    def __call__(self, state: ZoomState) -> Literal["decide", "answer"]:
        """The next node: "answer" if all calls of the last reply were of such tools and none failed."""
        answers: list[ToolMessage] = []
        for message in reversed(state["messages"]):
            if isinstance(message, AIMessage):
                break
            if isinstance(message, ToolMessage):
                answers.append(message)
        ended = bool(answers) and all(each.name in self._direct and each.status != "error" for each in answers)
        return "answer" if ended else "decide"


class Answer(Node):
    """Ends the run."""

    def run(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Set `answer`: what `<answer>` holds, else the reply's text outside its reasoning, else None.

        A tool with `return_direct` answers in the model's place.
        """
        last = state["messages"][-1]
        reply = parse_reply(last.text)
        usage = {**state["usage"], "untagged": not reply.answer}
        answer = answer_of(last)
        stop = state["stop"] if answer or state["stop"] else "no_answer"
        if not answer and was_cut(last):
            stop = "length"
        runtime.stream_writer({"event": "answer", "answer": answer, "stop": stop, "usage": usage})
        return {"answer": answer, "stop": stop, "usage": usage}

    async def arun(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """As `run`; it waits for nothing."""
        return self.run(state, settings, runtime, config)
