"""Asks many questions at once, so that their model calls run as batches.

Run it from the repository's root:

    python examples/batch.py
"""

import asyncio
import json
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage

from vtagent import ChatVLM, View, create_zoom_agent

documents = Path("examples/documents")
model = ChatVLM.from_pretrained("zoom")
agent = create_zoom_agent(model)
rows = [json.loads(line) for line in (documents / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


def graph_input(row: dict[str, Any]) -> Any:
    """Returns the agent's input for one row of questions.jsonl."""
    page = View(model.image_store.put_file(documents / row["image"])).block()
    question = HumanMessage([page, {"type": "text", "text": row["question"]}])
    return {"messages": [question]}


results = asyncio.run(agent.abatch([graph_input(row) for row in rows], {"max_concurrency": 32}))
for row, result in zip(rows, results, strict=True):
    print(f"{row['image']}: {result['answer']} (gold answer: {row['answer']}), {result['usage']['zooms']} zooms")
