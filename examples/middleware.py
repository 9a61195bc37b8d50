"""Adds `ZoomMiddleware` to an agent made with `create_agent`, so that it looks at images cheaply first.

Run it from the repository's root:

    python examples/middleware.py
"""

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool

from vtagent import ChatVLM, View, ZoomMiddleware


@tool
def exchange_rate(currency: str) -> float:
    """How many dollars one unit of a currency is worth."""
    return {"EUR": 1.1, "GBP": 1.3}[currency]


model = ChatVLM.from_pretrained("zoom")  # or any chat model that takes images and calls tools
agent = create_agent(model, [exchange_rate], middleware=[ZoomMiddleware(model)])

for name in ("large-print", "small-print"):
    page = View(model.image_store.put_file(f"examples/documents/{name}.png")).block()
    result = agent.invoke({"messages": [HumanMessage([page, {"type": "text", "text": "What is the Total?"}])]})
    usage = result["zoom"]["usage"]
    cost = f"{usage['zooms']} zooms, {usage['visual_tokens']} visual tokens, {usage['full_visual_tokens']} at once"
    print(f"{name}: {result['messages'][-1].text} ({cost})")
