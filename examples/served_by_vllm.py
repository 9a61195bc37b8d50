"""Asks a model that `vllm serve` has loaded; this process loads no weights. docs/serve.md says how to start the server.

Run it from the repository's root, with the server's URL, the model, an image and a question:

    python examples/served_by_vllm.py http://127.0.0.1:8000 Qwen/Qwen3-VL-8B-Instruct page.png "What is the Total?"
"""

import sys

from langchain_core.messages import HumanMessage

from vtagent import ChatVLM, View, create_zoom_agent

url, processor, image, text = sys.argv[1:]

model = ChatVLM.from_server(url, processor, engine_options={"timeout": 60.0, "retries": 8})
agent = create_zoom_agent(model)
page = View(model.image_store.put_file(image)).block()
question = HumanMessage([page, {"type": "text", "text": text}])
result = agent.invoke({"messages": [question]})
print(f"{result['answer']} ({result['usage']['zooms']} zooms, {result['usage']['visual_tokens']} visual tokens)")
model.engine.close()
