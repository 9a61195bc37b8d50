"""Turns are read from the messages of a run, whoever stored them; what cannot be trained on is refused."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.sqlite import SqliteSaver

from tests.fakes import scripted_vlm
from tests.scripted_chat import ANSWER, ZOOM, asked, picture
from vtagent.errors import ModelError
from vtagent.graphs.zoom import create_zoom_agent
from vtagent.images import DirectoryImageStore
from vtagent.models.chat import ChatVLM
from vtagent.models.engine import Engine, Generation, Request
from vtagent.models.records import KEY
from vtagent.training.data import rendered
from vtagent.training.rl.rollout import turns_of

THREAD: Any = {"configurable": {"thread_id": "1"}}


class Recording:
    """An engine that remembers what it was asked and what it sampled."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.exchanges: list[tuple[Request, Future[Generation]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def submit(self, request: Request) -> Future[Generation]:
        future = self._engine.submit(request)
        self.exchanges.append((request, future))
        return future


def policy(folder: Path) -> ChatVLM:
    return ChatVLM.from_pretrained("base", image_store=DirectoryImageStore(folder / "images"), temperature=1.0, seed=1)


def test_a_thread_in_a_database_gives_the_turns_of_the_run_to_fresh_objects(tmp_path: Path) -> None:
    database = str(tmp_path / "threads.sqlite")
    model = policy(tmp_path)
    engine = Recording(model.engine)
    with SqliteSaver.from_conn_string(database) as saver:
        agent = create_zoom_agent(model.model_copy(update={"engine": engine}), checkpointer=saver)
        for page in rendered(1, seed=3):
            agent.invoke({"messages": [asked(page.question, page.image)]}, THREAD, context={"zoom_bias": 6.0})
    model.engine.close()

    with SqliteSaver.from_conn_string(database) as saver:
        fresh = policy(tmp_path)
        stored = create_zoom_agent(fresh, checkpointer=saver).get_state(THREAD).values["messages"]
    turns = turns_of(stored, fresh)

    assert len(turns) == len(engine.exchanges) > 2
    said: tuple[int, ...] = ()
    for turn, (request, future) in zip(turns, engine.exchanges, strict=True):
        generation = future.result()
        assert said + turn.prompt_ids == request.token_ids
        assert (turn.completion_ids, turn.logprobs) == (generation.token_ids, generation.logprobs)
        assert turn.finish_reason == generation.finish_reason
        assert [(image.key, image.pixels.tobytes()) for image in turn.images] == [
            (image.key, image.pixels.tobytes()) for image in request.images
        ]
        said = request.token_ids + generation.token_ids
    fresh.engine.close()


def run() -> tuple[ChatVLM, list[BaseMessage]]:
    """A model and the messages of a run that zoomed."""
    model = scripted_vlm([ZOOM, ANSWER])
    messages: list[BaseMessage] = create_zoom_agent(model).invoke({"messages": [asked("?", picture())]})["messages"]
    return model, messages


def changed(messages: Sequence[BaseMessage], place: int, **record: Any) -> list[BaseMessage]:
    """The messages with other entries in the record of one of them; None takes an entry out."""
    message = messages[place].model_copy()
    entries = {**message.response_metadata[KEY], **record}
    kept = {name: value for name, value in entries.items() if value is not None}
    message.response_metadata = {**message.response_metadata, KEY: kept}
    return [*messages[:place], message, *messages[place + 1 :]]


def test_a_conversation_without_replies_has_no_turns() -> None:
    model, messages = run()
    assert turns_of(messages[:1], model) == turns_of([], model) == ()


def test_a_reply_of_another_model_is_named() -> None:
    model, messages = run()
    with pytest.raises(ModelError, match="reply 3 has no record of its tokens"):
        turns_of([*messages, HumanMessage("And?"), AIMessage("48.10")], model)


@pytest.mark.parametrize("missing", ["start", "logprobs"])
def test_a_record_of_an_earlier_version_is_named_and_still_continued(missing: str) -> None:
    model, messages = run()
    old = changed(messages, 3, **{missing: None})
    with pytest.raises(ModelError, match="record of reply 2 was made by an earlier version"):
        turns_of(old, model)
    follow_up = HumanMessage("And in words?")
    assert model.prompt_ids([*old, follow_up]) == model.prompt_ids([*messages, follow_up])


def test_a_prompt_that_was_rendered_afresh_cannot_be_trained_on() -> None:
    model, messages = run()
    with pytest.raises(ModelError, match="prompt of reply 2 does not begin with all that was said before"):
        turns_of(changed(messages, 3, start=0), model)
    with pytest.raises(ModelError, match="prompt of reply 1 does not begin with all that was said before"):
        turns_of(messages[2:], model)


def test_an_image_that_the_model_was_not_shown_is_noticed() -> None:
    model, messages = run()
    with pytest.raises(ModelError, match="reply 2 was shown 2 images, but 3 stand before it"):
        turns_of([*messages[:3], messages[0], *messages[3:]], model)
