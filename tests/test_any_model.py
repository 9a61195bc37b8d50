"""Whatever answers as a chat model does can be the model: wrapped, configurable, with fallbacks, or a name."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    LLMToolSelectorMiddleware,
    ModelFallbackMiddleware,
    wrap_model_call,
)
from langchain.chat_models import init_chat_model
from langchain_anthropic.middleware import AnthropicPromptCachingMiddleware
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import ConfigurableField, Runnable, RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import Field

from tests.image_samples import encode, scene
from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat, asked, picture, put
from tests.test_model_call import pictures as sizes
from tests.wire.models import PROVIDERS, QUIET, Provider
from tests.wire.server import Call, Line, Reply, Server
from vtagent.errors import ModelError
from vtagent.graphs import UnreadReferenceWarning, ZoomContext, create_zoom_agent, referenced, resolve
from vtagent.graphs.middleware import ZoomMiddleware
from vtagent.images import MemoryImageStore
from vtagent.models import runnables
from vtagent.models.pixel_model import Pixels, with_pixels
from vtagent.tools import create_zoom_tool
from vtagent.visual_tokens import QWEN3_VL

pytestmark = QUIET

PAGE = encode(scene((1280, 960)))
SCRIPT: list[Line] = [
    Reply("<think>Too small.</think>", (Call("zoom_image", {"region": [0, 0, 320, 480]}),)),  # pixels, as Claude points
    "<answer>48.10</answer>",
]
AGENTS: dict[str, Callable[..., Any]] = {
    "graph": create_zoom_agent,
    "middleware": lambda model, **options: create_agent(model, middleware=[ZoomMiddleware(**options)]),
}
CLAUDE = PROVIDERS["anthropic"]
GPT = [(512, 384), (1024, 768)]
SHOWN = {"openai_chat": GPT, "openai_responses": GPT, "ollama": [(644, 476), (1288, 952)]}
"""The sizes of the low view and of the whole page, where the provider's rule changes them."""


@pytest.fixture(params=list(AGENTS))
def agent(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return AGENTS[request.param]


@pytest.fixture
def claude() -> Iterator[Server]:
    with Server(CLAUDE.format(), SCRIPT) as server:
        yield server


def configurable(server: Server, **options: Any) -> Any:
    return init_chat_model(
        CLAUDE.name,
        model_provider="anthropic",
        configurable_fields=("max_tokens", "model"),
        base_url=server.url,
        api_key="key",
        **options,
    )


def lengths(server: Server) -> list[Any]:
    return [request.body["max_tokens"] for request in server.requests]


WRAPPED: dict[str, Callable[[Server], Any]] = {
    "with_config": lambda server: CLAUDE.chat(server).with_config(tags=["mine"]),
    "bind": lambda server: CLAUDE.chat(server).bind(max_tokens=500),
    "with_retry": lambda server: CLAUDE.chat(server).with_retry(stop_after_attempt=2),
    "bind and with_retry": lambda server: CLAUDE.chat(server).bind(max_tokens=500).with_retry(),
    "configurable": lambda server: configurable(server, max_tokens=500),
    "configurable fields": lambda server: (
        CLAUDE.chat(server)
        .configurable_fields(max_tokens=ConfigurableField("length"))
        .with_config(configurable={"length": 500})
    ),
    "a sequence": lambda server: RunnableLambda(lambda messages: messages) | CLAUDE.chat(server),
}


@pytest.mark.parametrize("kind", list(WRAPPED))
def test_a_wrapped_model_zooms_and_keeps_what_is_bound_to_it(
    agent: Callable[..., Any], kind: str, claude: Server
) -> None:
    state = agent(WRAPPED[kind](claude)).invoke({"messages": [asked("?", PAGE)]})
    assert not claude.refused
    assert "48.10" in state["messages"][-1].text
    assert [[image.size for image in request.images] for request in claude.requests] == [
        [(640, 480)],
        [(640, 480), (640, 960)],
    ]
    short = kind not in ("with_config", "with_retry", "a sequence")
    assert [length == 500 for length in lengths(claude)] == [short] * 2


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_configurable_model_is_that_of_the_run(agent: Callable[..., Any], way: str, claude: Server) -> None:
    built, config = agent(configurable(claude)), {"configurable": {"max_tokens": 250}}
    question: Any = {"messages": [asked("?", PAGE)]}
    if way == "sync":
        built.invoke(question, config)
    else:
        asyncio.run(built.ainvoke(question, config))
    assert lengths(claude) == [250] * 2
    assert not claude.refused


def test_each_fallback_is_given_tools_and_pixels_in_its_own_form(agent: Callable[..., Any]) -> None:
    """All of them point in the convention of the first, which the tool's schema tells them."""
    down = PROVIDERS["openai_responses"].model("http://127.0.0.1:9", "gpt-5")
    script: list[Line] = [Reply("", (Call("zoom_image", {"region": [0, 0, 500, 1000]}),)), "<answer>48.10</answer>"]
    with Server(CLAUDE.format(), script) as claude:
        state = agent(down.with_fallbacks([CLAUDE.chat(claude)])).invoke({"messages": [asked("?", PAGE)]})
    assert "48.10" in state["messages"][-1].text
    assert not claude.refused
    assert "0 to 1000" in str(claude.requests[0].body["tools"])
    assert [image.size for image in claude.requests[1].images] == [(640, 480), (640, 960)]


class BindsItself(ScriptedChat):
    """Remembers its tools instead of returning a binding."""

    tools: list[str] = Field(default_factory=list)

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        self.tools = [each.name for each in tools]
        return self


class BindsAnother(ScriptedChat):
    """Returns a binding of a copy, wrapped."""

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.model_copy().bind(tools=tools).with_config(tags=["tools"]).with_retry()


@pytest.mark.parametrize("kind", [BindsItself, BindsAnother])
def test_a_model_may_return_what_it_likes_when_tools_are_bound(
    agent: Callable[..., Any], kind: type[ScriptedChat]
) -> None:
    model = kind(lines=[ZOOM, ANSWER], resolves_images=False)
    state = agent(model).invoke({"messages": [asked("?", picture())]})
    assert "48.10" in state["messages"][-1].text
    assert sizes(model.seen[1]) == [("human", (640, 480)), ("human", (1280, 960))]
    assert not isinstance(model, BindsItself) or model.tools == ["zoom_image"]


def test_a_model_that_keeps_a_count_keeps_one_count() -> None:
    class Listed(FakeMessagesListChatModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self.bind()

    zoom = AIMessage("", tool_calls=[{"name": "zoom_image", "args": {}, "id": "1"}])
    model = Listed(responses=[zoom, AIMessage("48.10"), AIMessage("later")])
    state = create_agent(model, middleware=[ZoomMiddleware()]).invoke({"messages": [asked("?", picture())]})
    assert state["messages"][-1].text == "48.10"
    assert model.i == 2


def test_a_name_is_looked_up_once(agent: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    runnables.model_named.cache_clear()
    first = runnables.model_named("openai:gpt-4o")
    assert type(first).__name__ == "ChatOpenAI"
    assert runnables.model_named("openai:gpt-4o") is first
    lines = ScriptedChat(lines=[ZOOM, ANSWER, ZOOM, ANSWER], resolves_images=False)
    monkeypatch.setattr(runnables, "model_named", lambda name: {"scripted:it": lines}[name])
    built = create_zoom_agent() if agent is create_zoom_agent else agent(ScriptedChat(lines=["no"]))
    if agent is not create_zoom_agent:
        built = create_agent(ScriptedChat(lines=["no"]), middleware=[ZoomMiddleware()], context_schema=ZoomContext)
    state = built.invoke({"messages": [asked("?", picture())]}, context=ZoomContext(model="scripted:it"))
    assert "48.10" in state["messages"][-1].text


@pytest.mark.parametrize(
    ("name", "says"), [("nobody:knows", "cannot be made"), ("", "cannot be made"), ("no-such-model", "cannot be made")]
)
def test_a_name_that_cannot_be_looked_up_is_one_clear_error(name: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        create_zoom_agent(name)


def test_a_context_that_came_as_a_dict_cannot_choose_a_model_by_name() -> None:
    with pytest.raises(TypeError, match=r"only ZoomContext\(model=…\) takes names"):
        create_zoom_agent(ScriptedChat(lines=[ANSWER])).invoke({"messages": []}, context={"model": "openai:gpt-4o"})


def test_a_runnable_without_a_chat_model_says_so() -> None:
    model: Runnable[Any, Any] = RunnableLambda(lambda messages: AIMessage("<answer>48.10</answer>"))
    with pytest.raises(ModelError, match="RunnableLambda cannot be given tools: there is no chat model in it"):
        create_zoom_agent(model).invoke({"messages": [asked("?", picture())]})
    seen: list[Any] = []

    def answer(messages: Any) -> AIMessage:
        seen.append(messages)
        return AIMessage("<answer>48.10</answer>")

    state = create_zoom_agent(RunnableLambda(answer)).invoke(
        {"messages": [asked("?", picture())]}, context={"max_zooms": 0}
    )
    assert state["answer"] == "48.10"
    assert sizes(seen[0]) == [("human", (640, 480))]


def test_what_a_configurable_model_lacks_is_the_providers_error() -> None:
    built = create_zoom_agent(init_chat_model(configurable_fields=("model", "model_provider")))
    with pytest.raises(TypeError, match="model"):
        built.invoke({"messages": [asked("?", picture())]})


# ---------------------------------------------------------------- the model's own class


@pytest.mark.parametrize("name", list(PROVIDERS))
def test_a_model_that_is_given_pixels_is_still_of_its_class_and_shares_its_attributes(name: str) -> None:
    with Server(PROVIDERS[name].format(), ["Red."]) as server:
        model: Any = PROVIDERS[name].chat(server)
        store = MemoryImageStore()
        given = with_pixels(model, Pixels(store, QWEN3_VL))
        assert isinstance(given, type(model))
        assert given.lc_id() == model.lc_id()
        assert given.profile == model.profile
        model.name = "ours"
        assert given.name == "ours"
        assert given.invoke([HumanMessage([*put(store, picture(256, 256))])]).text == "Red."
        assert [image.size for image in server.requests[0].images] == [(256, 256)]


class Sees(AgentMiddleware[Any, Any, Any]):
    """Notes the model of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        self.requests.append(request)
        return handler(request)


def test_where_no_image_is_in_sight_nothing_is_wrapped() -> None:
    model, sees = ScriptedChat(lines=["Hello."], resolves_images=False), Sees()
    agent = create_agent(model, middleware=[ZoomMiddleware(), sees], system_prompt="Be kind.")
    agent.invoke({"messages": [HumanMessage("Hi")]})
    [request] = sees.requests
    assert request.model is model
    assert (request.tools, request.model_settings) == ([], {})
    assert [message.content for message in (request.system_message, *request.messages)] == ["Be kind.", "Hi"]


@tool
def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


@pytest.mark.parametrize("last", [True, False], ids=["caching first", "caching last"])
@pytest.mark.parametrize("tools", [[], [multiply]], ids=["only zooms", "other tools"])
@pytest.mark.parametrize("image", [True, False], ids=["image", "no image"])
def test_prompt_caching_finds_claude_and_its_marks_are_sent(last: bool, tools: list[Any], image: bool) -> None:
    middleware: list[Any] = [AnthropicPromptCachingMiddleware(unsupported_model_behavior="raise"), ZoomMiddleware()]
    with Server(CLAUDE.format(), SCRIPT if image else ["Hello."]) as server:
        agent = create_agent(
            CLAUDE.chat(server),
            tools,
            middleware=middleware if last else middleware[::-1],
            system_prompt="Read the documents of our customers.",
        )
        agent.invoke({"messages": [asked("?", PAGE) if image else HumanMessage("Hi")]})
    assert not server.refused
    for request in server.requests:
        places = " ".join(request.cache_marks)
        assert "system" in places
        assert "messages" in places or "top" in places or "cache_control" in request.body
        if request.body.get("tools"):
            assert "tools" in places


def test_a_callers_mark_on_an_image_is_sent() -> None:
    image, text = asked("?", PAGE).content_blocks
    with Server(CLAUDE.format(), ["48.10"]) as server:
        agent = create_agent(CLAUDE.chat(server), middleware=[ZoomMiddleware()])
        agent.invoke({"messages": [HumanMessage([{**image, "cache_control": {"type": "ephemeral"}}, {**text}])]})
    assert any("messages" in place for place in server.requests[0].cache_marks)


def test_a_mark_on_a_reference_is_sent_with_the_pixels() -> None:
    class Marks(AgentMiddleware[Any, Any, Any]):
        def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
            [question] = request.messages
            image, text = question.content
            marked = question.model_copy(update={"content": [{**image, "cache_control": {"type": "ephemeral"}}, text]})
            return handler(request.override(messages=[marked]))

    with Server(CLAUDE.format(), ["48.10"]) as server:
        agent = create_agent(CLAUDE.chat(server), middleware=[ZoomMiddleware(), Marks()])
        agent.invoke({"messages": [asked("?", PAGE)]})
    assert not server.refused
    assert any("messages" in place for place in server.requests[0].cache_marks)


# ---------------------------------------------------------------- other people's models in the same conversation


@pytest.mark.parametrize("last", [True, False], ids=["zoom last", "zoom first"])
def test_a_fallback_model_is_given_pixels_in_whichever_order(last: bool) -> None:
    second = ScriptedChat(lines=["48.10"], resolves_images=False)
    middleware: list[Any] = [ModelFallbackMiddleware(second), ZoomMiddleware()]
    first = ScriptedChat(lines=[RuntimeError("down")], resolves_images=False)
    agent = create_agent(first, middleware=middleware if last else middleware[::-1])
    state = agent.invoke({"messages": [asked("?", picture())]})
    assert state["messages"][-1].text == "48.10"
    assert sizes(second.seen[0]) == [("human", (640, 480))]


@pytest.mark.parametrize("wrapped", [False, True])
def test_so_is_a_model_that_later_middleware_chooses(wrapped: bool) -> None:
    other = ScriptedChat(lines=[ZOOM, "48.10"], resolves_images=False)

    @wrap_model_call
    def choose(request: Any, handler: Any) -> Any:
        return handler(request.override(model=other.with_retry() if wrapped else other))

    middleware: list[Any] = [ZoomMiddleware(), choose]
    agent = create_agent(ScriptedChat(lines=["no"], resolves_images=False), middleware=middleware)
    state = agent.invoke({"messages": [asked("?", picture())]})
    assert state["messages"][-1].text == "48.10"
    assert sizes(other.seen[1]) == [("human", (640, 480)), ("human", (1280, 960))]


def test_a_selector_with_a_model_of_its_own_is_warned_of() -> None:
    own = FakeMessagesListChatModel(responses=[AIMessage("no")])

    class Chooses(FakeMessagesListChatModel):
        def with_structured_output(self, schema: Any, **kwargs: Any) -> Any:
            return own | RunnableLambda(lambda _: {"tools": ["multiply"]})

    middleware: list[Any] = [LLMToolSelectorMiddleware(model=Chooses(responses=[]), max_tools=1), ZoomMiddleware()]
    model = ScriptedChat(lines=["48.10"], resolves_images=False)
    agent = create_agent(model, [multiply], middleware=middleware)
    with pytest.warns(UnreadReferenceWarning, match="FakeMessagesListChatModel is sent image references"):
        agent.invoke({"messages": [asked("?", picture())]})


def reader(model: Any, store: Any = None) -> Any:
    """A graph with a node that reads what the agent before it left."""
    looks = create_zoom_agent(ScriptedChat(lines=[ZOOM, ANSWER], resolves_images=False))

    def read(state: Any) -> Any:
        messages = state["messages"] if store is None else resolve(state["messages"], looks.builder.store, model)
        return {"messages": [model.invoke([*messages, HumanMessage("And?")])]}

    bot = StateGraph(MessagesState).add_node("look", looks).add_node("read", read)
    return bot.add_edge(START, "look").add_edge("look", "read").compile()


def test_a_node_after_the_agent_that_reads_its_messages_is_warned_of_with_the_remedy() -> None:
    model = FakeMessagesListChatModel(responses=[AIMessage("It is paid.")])
    with pytest.warns(UnreadReferenceWarning, match=r"vtagent\.graphs\.resolve\(messages, store, model\)"):
        reader(model).invoke({"messages": [asked("?", picture())]})


@pytest.mark.parametrize("name", list(PROVIDERS))
def test_with_the_remedy_every_provider_takes_the_messages(name: str) -> None:
    provider: Provider = PROVIDERS[name]
    with Server(provider.format(), ["It is paid."]) as server:
        model: Any = provider.chat(server)
        if name == "anthropic":  # it wants the tools of earlier calls
            model = model.bind_tools([create_zoom_tool(image_store=MemoryImageStore(), vision=QWEN3_VL)])
        state = reader(model, store=True).invoke({"messages": [asked("?", PAGE)]})
    assert not server.refused
    assert state["messages"][-1].text == "It is paid."
    assert [image.size for image in server.requests[0].images] == SHOWN.get(name, [(640, 480), (1280, 960)])


def test_pixels_can_be_taken_out_and_put_back() -> None:
    store = MemoryImageStore()
    taken_out = referenced([asked("?", picture(256, 256)), SystemMessage("Be kind.")], store)
    assert "base64" not in repr(taken_out)
    [back, system] = resolve(taken_out, store)
    assert sizes([back]) == [("human", (256, 256))]
    assert system.content == "Be kind."
    assert resolve(taken_out, store, ScriptedChat(lines=["ok"]))[0].content == taken_out[0].content


def test_what_cannot_be_put_back_is_said() -> None:
    block = {"type": "image", "url": "vtimg://sha256/" + "ab" * 32}
    asking = AIMessage("", tool_calls=[{"name": "zoom_image", "args": {}, "id": "1"}])
    told = resolve([HumanMessage([block]), asking], MemoryImageStore())
    assert "no longer in the image store" in told[0].text
    assert isinstance(told[2], ToolMessage)


def test_a_model_that_reads_references_is_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = MemoryImageStore()
        create_zoom_agent(ScriptedChat(lines=[ANSWER]), image_store=store)
        ScriptedChat(lines=["ok"]).invoke([HumanMessage([*put(store, picture(256, 256))])])


def test_the_model_of_the_graph_is_not_warned_of(agent: Callable[..., Any], claude: Server) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnreadReferenceWarning)
        agent(CLAUDE.chat(claude)).invoke({"messages": [asked("?", PAGE)]})
