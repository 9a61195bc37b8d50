"""A graph of your own, of two nodes: `look` shows a small picture, `read` the whole one if the model asks for it.

Run it from the repository's root, or train a model over it:

    python examples/own_graph.py
    python -m vtagent.training.grpo --config training/recipes/tiny.yaml --graph examples/own_graph.py:build
"""

from typing import Any, Literal, cast

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command

from vtagent import ChatVLM, View, ZoomContext


def zoom_image() -> None:
    """See the whole picture."""


def build(default: ChatVLM) -> Any:
    """The compiled graph. A trainer gives each run a model in the context, so that every run has its own seed."""

    def view(question: Any, scale: float) -> dict[str, Any]:
        page = next(block for block in question.content if block["type"] == "image")
        return View(View.from_block(page, default.image_store).ref, scale=scale).block()

    def model_of(runtime: Runtime[ZoomContext]) -> Any:
        given: Any = runtime.context and runtime.context.model
        return (given or default).bind_tools([zoom_image])

    async def look(state: MessagesState, runtime: Runtime[ZoomContext]) -> Command[Literal["read", "__end__"]]:
        question: Any = state["messages"][-1]
        blocks = [view(question, 0.5) if block["type"] == "image" else block for block in question.content]
        small = HumanMessage(blocks, id=question.id)  # the same id: it replaces the question
        reply = await model_of(runtime).ainvoke([small])
        return Command(update={"messages": [small, reply]}, goto="read" if reply.tool_calls else "__end__")

    async def read(state: MessagesState, runtime: Runtime[ZoomContext]) -> dict[str, Any]:
        question, reply = state["messages"][-2], cast("AIMessage", state["messages"][-1])
        whole = ToolMessage([view(question, 1.0)], name="zoom_image", tool_call_id=reply.tool_calls[0]["id"])
        return {"messages": [whole, await model_of(runtime).ainvoke([*state["messages"], whole])]}

    graph = StateGraph(MessagesState, context_schema=ZoomContext).add_node("look", look).add_node("read", read)
    return graph.add_edge(START, "look").add_edge("read", END).compile()


if __name__ == "__main__":
    import asyncio

    model = ChatVLM.from_pretrained("zoom")
    for name in ("large-print", "small-print"):
        page = View(model.image_store.put_file(f"examples/documents/{name}.png")).block()
        question = HumanMessage([page, {"type": "text", "text": "What is the Total?"}])
        ended = asyncio.run(build(model).ainvoke({"messages": [question]}))
        print(name, ended["messages"][-1].text, f"after {len(ended['messages']) // 2} replies")
