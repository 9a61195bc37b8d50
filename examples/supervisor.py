"""Makes the zoom agent a tool of a supervisor that cannot see images itself.

Run it from the repository's root:

    python examples/supervisor.py
"""

from collections.abc import Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage

from vtagent import ChatVLM, as_tool, create_zoom_agent


class Supervisor(GenericFakeChatModel):
    """Stands for any chat model that calls tools. Its replies are scripted."""

    def bind_tools(self, tools: Sequence[Any], **options: Any) -> Any:
        """Accepts any tools."""
        return self


model = ChatVLM.from_pretrained("zoom")
receipt = model.image_store.put_file(
    "examples/documents/small-print.png"
).url  # a reference of 80 bytes instead of pixels
call = {"name": "look", "args": {"question": "What is the Total?", "images": [receipt]}, "id": "1"}
supervisor = Supervisor(messages=iter([AIMessage("", tool_calls=[call]), AIMessage("Approved.")]))

agent = create_agent(supervisor, [as_tool(create_zoom_agent(model))])
result = agent.invoke({"messages": [HumanMessage(f"May we pay {receipt}?")]})
for message in result["messages"]:
    print(f"{message.type}: {message.text or message.tool_calls[0]['args']}")
print("evidence:", result["messages"][2].artifact["views"][-1])
