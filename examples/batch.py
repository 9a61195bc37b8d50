"""Many questions at once; their model calls are batched. Run it from the repository's root: python examples/batch.py"""

import asyncio
import json
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage

from vtagent import View
from vtagent.graphs import create_zoom_agent
from vtagent.models import ChatVLM

documents = Path("examples/documents")
model = ChatVLM.from_pretrained("zoom")
agent = create_zoom_agent(model)
rows = [json.loads(line) for line in (documents / "questions.jsonl").read_text(encoding="utf-8").splitlines()]


def asked(row: dict[str, Any]) -> Any:
    page = View(model.store.put_file(documents / row["image"])).block()
    return {"messages": [HumanMessage([page, {"type": "text", "text": row["question"]}])]}


results = asyncio.run(agent.abatch([asked(row) for row in rows], {"max_concurrency": 32}))
for row, result in zip(rows, results, strict=True):
    print(f"{row['image']}: {result['answer']} (gold answer: {row['answer']}), {result['usage']['zooms']} zooms")
