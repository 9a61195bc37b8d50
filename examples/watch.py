"""Prints each step of a run as it happens: views, decisions and the answer.

Run it from the repository's root:

    python examples/watch.py [IMAGE QUESTION]
"""

import sys

from langchain_core.messages import HumanMessage

from vtagent import ChatVLM, View, create_zoom_agent

image, text = sys.argv[1:] or ("examples/documents/small-print.png", "What is the Total?")
model = ChatVLM.from_pretrained("zoom")
agent = create_zoom_agent(model)
page = View(model.image_store.put_file(image)).block()
question = HumanMessage([page, {"type": "text", "text": text}])
for event in agent.stream({"messages": [question]}, context={"max_zooms": 2}, stream_mode="custom"):
    print(event)
