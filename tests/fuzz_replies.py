"""Random replies through the graph, with SQLite, and through an agent with `ZoomMiddleware`.

    python -m tests.fuzz_replies 100000

Every run must end by itself, what it left must be read back, and the next question on its thread must be answered. The
short form of it is in `test_storable`.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langgraph.checkpoint.sqlite import SqliteSaver

from tests.odd_replies import odd_reply
from tests.scripted_chat import ANSWER, ScriptedChat, picture, put
from vtagent.graphs.middleware import ZoomMiddleware
from vtagent.graphs.state import ZoomContext
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.images import ImageStore, MemoryImageStore

BUDGETS = ZoomContext(max_zooms=3, max_mistakes=6, max_turns=8)
Ask = Callable[[Random, int], int]
"""Puts one run's replies through: from a seed and a number of replies to the number that was used."""


@tool
def other(x: int = 0) -> str:
    """Another tool."""
    return f"\ud800{x}"


class Once(ScriptedChat):
    """Says its lines in order; they are as a server sent them, with nothing checked."""

    def _message(self, said: Any) -> Any:
        return super()._message(said) if isinstance(said, str) else said


def through(agent: Any, model: Once, block: dict[str, Any], random: Random, thread: str) -> int:
    """One run on a thread, and a question after it; returns how many odd replies the model gave."""
    model.lines[:] = [*(odd_reply(random) for _ in range(random.randrange(1, 5))), ANSWER]
    odd = len(model.lines) - 1
    model.seen.clear()
    config: Any = {"configurable": {"thread_id": thread}, "recursion_limit": 100}
    durability: Any = random.choice(["exit", "sync"])
    question = HumanMessage([block, {"type": "text", "text": "What is the total?"}])
    agent.invoke({"messages": [question]}, config, durability=durability)
    used = min(odd, len(model.seen))
    model.lines[:] = [ANSWER]
    model.seen.clear()
    result = agent.invoke({"messages": [("user", "Again?")]}, config, durability=durability)
    assert result["messages"][-1].response_metadata["answer"] == "48.10"
    assert len(agent.get_state(config).values["messages"]) == len(result["messages"])
    return used


@contextmanager
def agents(database: str = ":memory:") -> Iterator[dict[str, tuple[Any, Once, dict[str, Any]]]]:
    """The graph and the agent that are fuzzed, with their models and an image."""
    with SqliteSaver.from_conn_string(database) as saver:
        store: ImageStore = MemoryImageStore()
        [block] = put(store, picture())
        models = [Once(lines=[ANSWER], resolves_images=False) for _ in range(2)]
        graph = create_zoom_agent(models[0], image_store=store, tools=[other], defaults=BUDGETS, checkpointer=saver)
        middleware = ZoomMiddleware(image_store=store, defaults=BUDGETS)
        agent = create_agent(models[1], tools=[other], middleware=[middleware], checkpointer=saver)
        yield {"graph": (graph, models[0], block), "middleware": (agent, models[1], block)}


def fuzz(replies: int, seed: int = 0) -> dict[str, Counter[str]]:
    """Put that many replies through each of the two, and count the errors by kind and text."""
    errors: dict[str, Counter[str]] = {}
    with agents() as made:
        for which, (agent, model, block) in made.items():
            done, run, start = 0, 0, time.monotonic()
            errors[which] = Counter()
            while done < replies:
                run += 1
                try:
                    done += through(agent, model, block, Random(f"{seed}/{run}"), f"{which}/{run}")
                except Exception as error:
                    done += 1
                    errors[which][f"{type(error).__name__}: {error!s:.150}"] += 1
                    print(f"{which}, seed {seed}/{run}: {type(error).__name__}: {error!s:.150}", flush=True)
                agent.checkpointer.delete_thread(f"{which}/{run}")
            seconds = time.monotonic() - start
            print(f"{which}: {done} replies in {run} runs, {sum(errors[which].values())} errors, {seconds:.0f} s")
    return errors


if __name__ == "__main__":
    found = fuzz(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    sys.exit(any(found.values()))
