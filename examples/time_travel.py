"""Goes back to the step before a decision, and continues from there without a zoom.

Run it from the repository's root:

    python examples/time_travel.py
"""

from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from vtagent import ChatVLM, View, create_zoom_agent

model = ChatVLM.from_pretrained("zoom")
agent = create_zoom_agent(model, checkpointer=InMemorySaver())
page = View(model.image_store.put_file("examples/documents/small-print.png")).block()
question = HumanMessage([page, {"type": "text", "text": "What is the Total?"}])

config: Any = {"configurable": {"thread_id": "1"}}
# By default a run is saved once, when it ends. Time travel needs every step.
first = agent.invoke({"messages": [question]}, config, durability="sync")
print(f"then: {first['answer']} for {first['usage']['visual_tokens']} visual tokens")

# The history is newest first, so the last state before `decide` is the run's first decision.
before = [state for state in agent.get_state_history(config) if state.next == ("decide",)][-1]
other = agent.invoke(None, before.config, context={"max_zooms": 0})
print(f"without a zoom: {other['answer']} for {other['usage']['visual_tokens']} visual tokens")
