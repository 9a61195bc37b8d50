"""Asks a person to approve, edit or reject every zoom.

Run it from the repository's root:

    python examples/approve.py
"""

from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from vtagent import ChatVLM, View, build_zoom_graph, review_zooms

model = ChatVLM.from_pretrained("zoom")
agent = review_zooms(build_zoom_graph(model)).compile(checkpointer=InMemorySaver())
page = View(model.image_store.put_file("examples/documents/small-print.png")).block()
question = HumanMessage([page, {"type": "text", "text": "What is the Total?"}])

decisions: list[dict[str, Any]] = [
    {"type": "approve"},
    {"type": "edit", "edited_action": {"name": "zoom_image", "args": {"region": [0, 0, 1000, 500]}}},
    {"type": "reject", "message": "The budget of this month is spent"},
]
for thread, decision in enumerate(decisions):
    config: Any = {"configurable": {"thread_id": str(thread)}}
    paused = agent.invoke({"messages": [question]}, config)
    print("asked: ", paused["__interrupt__"][0].value["action_requests"][0]["description"])
    result = agent.invoke(Command(resume={"decisions": [decision]}), config)
    print(f"{decision['type']}: {result['answer']} after {result['usage']['zooms']} zooms")
    print("the model was told:", result["messages"][2].text)
