"""Ask a model that `vllm serve` has loaded (docs/serve.md says how to start it); no weights are loaded here.

python examples/served_by_vllm.py http://127.0.0.1:8000 Qwen/Qwen3-VL-8B-Instruct page.png "What is the Total?"
"""

import sys

from langchain_core.messages import HumanMessage

from vtagent import View
from vtagent.graphs import create_zoom_agent
from vtagent.models import ChatVLM

url, processor, image, question = sys.argv[1:]

model = ChatVLM.from_server(url, processor, engine_options={"timeout": 60.0, "retries": 8})
agent = create_zoom_agent(model)
page = View(model.store.put_file(image)).block()
state = agent.invoke({"messages": [HumanMessage([page, {"type": "text", "text": question}])]})
print(f"{state['answer']} ({state['usage']['zooms']} zooms, {state['usage']['visual_tokens']} visual tokens)")
model.engine.close()
