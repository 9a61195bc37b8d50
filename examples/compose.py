"""Uses the zoom agent as one node of your own graph.

Run it from the repository's root:

    python examples/compose.py
"""

from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph

from vtagent import ChatVLM, View, create_zoom_agent

model = ChatVLM.from_pretrained("zoom")
bot = StateGraph(MessagesState).add_node("look", create_zoom_agent(model)).add_edge(START, "look").compile()
page = View(model.image_store.put_file("examples/documents/small-print.png")).block()
question = HumanMessage([page, {"type": "text", "text": "What is the Total?"}])
print(bot.invoke({"messages": [question]})["messages"][-1].text)
