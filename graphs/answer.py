"""The last node: takes the answer out of the last reply."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import RunnableConfig

from vtagent.graphs.node import Node, ZoomRuntime
from vtagent.graphs.state import ZoomContext, ZoomState
from vtagent.graphs.tool_calls import answer_of
from vtagent.protocol import parse_reply


class Answer(Node):
    """Ends the run."""

    def run(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """Set `answer`: what `<answer>` holds, else the reply's text outside its reasoning, else None."""
        last = state["messages"][-1]
        reply = parse_reply(last.text)
        usage = {**state["usage"], "untagged": not reply.answer}
        answer = answer_of(last)
        stop = state["stop"] if answer or state["stop"] else "no_answer"
        runtime.stream_writer({"event": "answer", "answer": answer, "stop": stop, "usage": usage})
        return {"answer": answer, "stop": stop, "usage": usage}

    async def arun(self, state: ZoomState, settings: ZoomContext, runtime: ZoomRuntime, config: RunnableConfig) -> Any:
        """As `run`; it waits for nothing."""
        return self.run(state, settings, runtime, config)
