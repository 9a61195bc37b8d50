"""The zoom agent inside other agents: as a subgraph, as a tool, under review, back in time, many at once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from tests.scripted_chat import ANSWER, ZOOM, ScriptedChat, asked, picture, zoom_call
from vtagent.conversation import image_blocks
from vtagent.graphs import ZoomContext, as_tool, build_zoom_graph, create_zoom_agent, review_zooms
from vtagent.graphs.middleware import ZoomMiddleware
from vtagent.protocol import format_tool_call

CONFIG: Any = {"configurable": {"thread_id": "1"}}


def answers(result: dict[str, Any]) -> list[ToolMessage]:
    return [message for message in result["messages"] if isinstance(message, ToolMessage)]


# ---------------------------------------------------------------- as a subgraph


def test_a_subgraph_shares_its_parents_messages_and_thread() -> None:
    agent = create_zoom_agent(ScriptedChat(lines=[ZOOM, ANSWER, ANSWER]))
    bot = StateGraph(MessagesState).add_node("look", agent).add_edge(START, "look").compile(InMemorySaver())
    bot.invoke({"messages": [asked("?", picture())]}, CONFIG)
    result = bot.invoke({"messages": [HumanMessage("And?")]}, CONFIG)
    assert [message.type for message in result["messages"]] == ["human", "ai", "tool", "ai", "human", "ai"]
    assert len(list(image_blocks(result["messages"]))) == 2


# ---------------------------------------------------------------- as a tool


def supervisor(*lines: Any) -> ScriptedChat:
    return ScriptedChat(lines=list(lines))


def test_as_a_tool_it_answers_in_words_with_the_evidence_beside_them() -> None:
    reader = create_zoom_agent(ScriptedChat(lines=[zoom_call(region=[0, 0, 500, 500]), ANSWER]))
    asking = supervisor(format_tool_call("look", {"question": "What is the total?"}), "Paid.")
    result = create_agent(asking, [as_tool(reader)]).invoke({"messages": [asked("May we pay this?", picture())]})
    [told] = answers(result)
    assert told.text == ("48.10\n\nSeen: image 1, whole, at 640 × 480; image 1, region [0, 0, 500, 500], at 640 × 480.")
    assert told.artifact["answer"] == "48.10"
    assert [view["kind"] for view in told.artifact["views"]] == ["low", "zoom"]
    assert told.artifact["usage"]["zooms"] == 1


async def test_as_a_tool_asynchronously_and_several_at_once() -> None:
    reader = create_zoom_agent(ScriptedChat(lines=[ANSWER]))
    two = "".join(format_tool_call("look", {"question": f"Line {n}?"}) for n in range(2))
    agent = create_agent(supervisor(two, "Done."), [as_tool(reader)])
    result = await agent.ainvoke({"messages": [asked("?", picture())]})
    assert [answer.artifact["answer"] for answer in answers(result)] == ["48.10", "48.10"]


@pytest.mark.parametrize("asynchronously", [False, True])
async def test_as_a_tool_it_keeps_its_own_settings_and_is_given_the_asking_agents_config(asynchronously: bool) -> None:
    inner, other = ScriptedChat(lines=[ZOOM, ANSWER]), ScriptedChat(lines=["<answer>other</answer>"])
    asking = create_agent(
        supervisor(format_tool_call("look", {"question": "What is the total?"}), "Paid."),
        [as_tool(create_zoom_agent(inner))],
        context_schema=ZoomContext,
    )
    given: Any = {"messages": [asked("?", picture())]}
    theirs = ZoomContext(model=other, max_zooms=0)
    called: list[Any] = []

    class Seen(BaseCallbackHandler):
        def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
            called.append(kwargs["tags"])

    config: Any = {"callbacks": [Seen()], "tags": ["audit"]}
    if asynchronously:
        result: Any = await asking.ainvoke(given, config, context=theirs)
    else:
        result = asking.invoke(given, config, context=theirs)
    [told] = answers(result)
    assert (told.artifact["answer"], told.artifact["usage"]["zooms"], other.seen) == ("48.10", 1, [])
    assert ["audit" in tags for tags in called] == [True] * 4


def test_a_supervisor_that_cannot_see_names_the_image() -> None:
    model = ScriptedChat(lines=[ANSWER])
    reader = create_zoom_agent(model)
    first, second = (reader.builder.store.put(picture(size, 480)).url for size in (640, 960))
    look = as_tool(reader, name="ask_reader")
    told = look.invoke({"question": "What is the total?", "images": [second]})
    assert told == "48.10\n\nSeen: image 1, whole, at 480 × 256."
    assert first not in repr(model.seen)


@pytest.mark.parametrize(
    "named", ["/etc/passwd", "https://example.org/a.png", "vtimg://sha256/" + "ab" * 32, "image 1"]
)
def test_what_is_no_known_image_is_refused_in_words(named: str) -> None:
    look = as_tool(create_zoom_agent(ScriptedChat(lines=[ANSWER])))
    call: Any = {"type": "tool_call", "id": "1", "name": "look", "args": {"question": "?", "images": [named]}}
    told = look.invoke(call)
    assert told.status == "error"
    assert told.text


def test_naming_no_image_is_asking_about_all() -> None:
    look = as_tool(create_zoom_agent(ScriptedChat(lines=[ANSWER])))
    told = look.invoke({"question": "?", "images": [], "messages": [asked("?", picture())]})
    assert told.startswith("48.10\n\nSeen: image 1, whole")


LOST = {"type": "image", "url": "vtimg://sha256/" + "ab" * 32}
UNREADABLE = {"type": "image", "base64": "bm90IGFuIGltYWdl"}
LEFT_OUT = "Left out: images of this conversation that cannot be read or are no longer in the image store."


@pytest.mark.parametrize("bad", [LOST, UNREADABLE])
async def test_asking_about_all_is_asking_about_those_that_can_be_shown(bad: dict[str, Any]) -> None:
    look = as_tool(create_zoom_agent(ScriptedChat(lines=[ANSWER])))
    conversation = [HumanMessage([bad]), AIMessage("Yes?"), asked("?", picture()), AIMessage("Let me see.")]
    told = f"48.10\n\nSeen: image 1, whole, at 640 × 480. {LEFT_OUT}"
    assert look.invoke({"question": "?", "messages": conversation}) == told
    assert await look.ainvoke({"question": "?", "messages": conversation}) == told


@pytest.mark.parametrize("bad", [LOST, UNREADABLE])
def test_where_no_image_can_be_shown_it_says_so(bad: dict[str, Any]) -> None:
    look = as_tool(create_zoom_agent(ScriptedChat(lines=[ANSWER])))
    told = look.invoke({"question": "?", "messages": [HumanMessage([bad])]})
    assert told == f"There is no image in this conversation to ask about. {LEFT_OUT}"


def test_without_any_image_it_says_so() -> None:
    look = as_tool(create_zoom_agent(ScriptedChat(lines=[ANSWER])))
    assert look.invoke({"question": "?"}) == "There is no image in this conversation to ask about."


def test_the_asking_model_is_offered_a_question_and_images_and_nothing_else() -> None:
    asking = supervisor("Hello.")
    create_agent(asking, [as_tool(create_zoom_agent(), description="Look.")]).invoke({"messages": [HumanMessage("Hi")]})
    [function] = [offered["function"] for offered in asking.options[0]["tools"]]
    assert (function["name"], function["description"]) == ("look", "Look.")
    assert sorted(function["parameters"]["properties"]) == ["images", "question"]


# ---------------------------------------------------------------- a person decides


@tool
def clock() -> str:
    """What time it is."""
    return "noon"


def paused(*lines: Any, tools: Any = (), **context: Any) -> tuple[Any, dict[str, Any]]:
    """A reviewed agent that waits for a person, and what it asks."""
    graph = review_zooms(build_zoom_graph(ScriptedChat(lines=list(lines)), tools=tools))
    agent = graph.compile(checkpointer=InMemorySaver())
    result = agent.invoke({"messages": [asked("?", picture())]}, CONFIG, context=context)
    return agent, result["__interrupt__"][0].value


def decide(agent: Any, *decisions: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = agent.invoke(Command(resume={"decisions": list(decisions)}), CONFIG)
    return result


def test_the_person_is_asked_as_langchains_own_middleware_asks() -> None:
    _, ours = paused(zoom_call(region=[0, 0, 500, 500]))
    middleware: list[Any] = [HumanInTheLoopMiddleware({"zoom_image": True}), ZoomMiddleware()]
    agent = create_agent(
        ScriptedChat(lines=[zoom_call(region=[0, 0, 500, 500])]), middleware=middleware, checkpointer=InMemorySaver()
    )
    theirs = agent.invoke({"messages": [asked("?", picture())]}, CONFIG)["__interrupt__"][0].value
    assert ours.keys() == theirs.keys()
    assert ours["action_requests"][0].keys() == theirs["action_requests"][0].keys()
    assert ours["review_configs"][0].keys() == theirs["review_configs"][0].keys()
    assert (
        ours["action_requests"][0]["description"] == "The model asks to see region [0, 0, 500, 500] at full resolution."
    )


def test_an_approved_zoom_happens() -> None:
    agent, _ = paused(ZOOM, ANSWER)
    result = decide(agent, {"type": "approve"})
    assert (result["answer"], result["usage"]["zooms"]) == ("48.10", 1)


def test_a_person_may_choose_another_region_and_the_models_own_call_stays_as_it_was() -> None:
    agent, _ = paused(ZOOM, ANSWER)
    result = decide(
        agent, {"type": "edit", "edited_action": {"name": "zoom_image", "args": {"region": [0, 0, 500, 500]}}}
    )
    assert result["views"][-1]["region"] == [0, 0, 500, 500]
    assert "region [0, 0, 500, 500]" in answers(result)[0].text
    assert result["messages"][1].tool_calls[0]["args"] == {}


def test_a_refused_zoom_is_told_and_costs_nothing() -> None:
    agent, _ = paused(ZOOM, ANSWER)
    result = decide(agent, {"type": "reject", "message": "too dear"})
    assert answers(result)[0].text == "A person refused this zoom: too dear. Answer from what you see."
    assert (result["usage"]["zooms"], result["usage"]["mistakes"], result["answer"]) == (0, 0, "48.10")


def test_each_zoom_of_a_reply_is_decided_on_and_other_tools_are_not_asked_about() -> None:
    reply = zoom_call(region=[0, 0, 500, 500]) + format_tool_call("clock", {}) + format_tool_call("zoom_image", {})
    agent, asked_about = paused(reply, ANSWER, tools=[clock], max_zooms=2)
    assert len(asked_about["action_requests"]) == 2
    result = decide(agent, {"type": "reject"}, {"type": "approve"})
    assert [answer.status for answer in answers(result)] == ["error", "success", "success"]
    assert {answer.tool_call_id for answer in answers(result)} == {f"call_1_{n}" for n in range(3)}


def test_replies_without_a_zoom_go_through() -> None:
    graph = review_zooms(build_zoom_graph(ScriptedChat(lines=[format_tool_call("clock", {}), ANSWER]), tools=[clock]))
    result = graph.compile(checkpointer=InMemorySaver()).invoke({"messages": [asked("?", picture())]}, CONFIG)
    assert result["answer"] == "48.10"


@pytest.mark.parametrize("resume", ["yes", {"decisions": []}, {"decisions": [{"type": "maybe"}]}])
def test_what_is_no_decision_is_asked_about_again(resume: Any) -> None:
    agent, question = paused(ZOOM, ANSWER)
    again = agent.invoke(Command(resume=resume), CONFIG)["__interrupt__"][0].value
    assert "approve, edit, reject" in again.pop("problem")
    assert again == question
    assert decide(agent, {"type": "approve"})["answer"] == "48.10"


@pytest.mark.parametrize(
    ("decision", "says"),
    [
        ({"type": "approve"}, "the whole image"),
        (
            {"type": "edit", "edited_action": {"name": "zoom_image", "args": {"region": [0, 0, 500, 500]}}},
            "[0, 0, 500, 500]",
        ),
        ({"type": "reject", "message": "no"}, "rejected"),
    ],
)
def test_in_agents_langchains_own_middleware_asks(decision: dict[str, Any], says: str) -> None:
    middleware: list[Any] = [HumanInTheLoopMiddleware({"zoom_image": True}), ZoomMiddleware()]
    agent = create_agent(ScriptedChat(lines=[ZOOM, ANSWER]), middleware=middleware, checkpointer=InMemorySaver())
    agent.invoke({"messages": [asked("?", picture())]}, CONFIG)
    result = agent.invoke(Command(resume={"decisions": [decision]}), CONFIG)
    assert says in answers(result)[0].text
    assert result["messages"][-1].text.endswith("<answer>48.10</answer>")


QUARTERS = ([0, 0, 500, 500], [500, 500, 1000, 1000])


@pytest.mark.parametrize(
    ("first", "max_zooms", "zooms"),
    [
        ({"type": "reject", "message": "no"}, 1, 1),
        ({"type": "respond", "message": "It says 12."}, 1, 1),
        ({"type": "edit", "edited_action": {"name": "zoom_image", "args": {"region": QUARTERS[0]}}}, 2, 2),
        ({"type": "approve"}, 1, 1),
    ],
    ids=["rejected", "responded", "edited", "approved"],
)
def test_what_a_person_makes_of_one_zoom_is_not_held_against_the_next(
    first: dict[str, Any], max_zooms: int, zooms: int
) -> None:
    """The first call asks for the whole image; unedited, or though refused, it would leave nothing for the second."""
    two = ZOOM + format_tool_call("zoom_image", {"region": QUARTERS[1]})
    looking = ZoomMiddleware(defaults=ZoomContext(max_zooms=max_zooms))
    middleware: list[Any] = [HumanInTheLoopMiddleware({"zoom_image": True}), looking]
    agent = create_agent(ScriptedChat(lines=[two, ANSWER]), middleware=middleware, checkpointer=InMemorySaver())
    agent.invoke({"messages": [asked("?", picture())]}, CONFIG)
    result: Any = agent.invoke(Command(resume={"decisions": [first, {"type": "approve"}]}), CONFIG)
    shown = [view["region"] for view in result["zoom"]["views"] if view["kind"] == "zoom"]
    approved = first["type"] == "approve"
    assert QUARTERS[1] in shown or approved
    usage = result["zoom"]["usage"]
    assert (len(shown), usage["zooms"], usage["mistakes"]) == (zooms, zooms, approved)


@pytest.mark.parametrize(("mode", "zooms", "mistakes"), [("batched", 1, 0), ("per_call", 0, 1)])
def test_where_each_call_waits_alone_a_refused_zoom_counts_against_the_next(
    mode: Any, zooms: int, mistakes: int
) -> None:
    two = zoom_call(region=QUARTERS[0]) + format_tool_call("zoom_image", {"region": QUARTERS[1]})
    middleware: list[Any] = [HumanInTheLoopMiddleware({"zoom_image": True}, interrupt_mode=mode), ZoomMiddleware()]
    agent = create_agent(ScriptedChat(lines=[two, ANSWER]), middleware=middleware, checkpointer=InMemorySaver())
    asked_about = agent.invoke({"messages": [asked("?", picture())]}, CONFIG)["__interrupt__"]
    decisions: list[Any] = [{"type": "reject", "message": "no"}, {"type": "approve"}]
    resume: Any = {"decisions": decisions}
    if mode == "per_call":  # they come in any order
        resume = {one.id: decisions[QUARTERS.index(one.value["args"]["region"])] for one in asked_about}
    result: Any = agent.invoke(Command(resume=resume), CONFIG)
    assert result["messages"][-1].text.endswith("<answer>48.10</answer>")
    assert (result["zoom"]["usage"]["zooms"], result["zoom"]["usage"]["mistakes"]) == (zooms, mistakes)


# ---------------------------------------------------------------- back in time, many at once


def test_a_run_can_be_taken_up_before_its_decision_under_another_budget() -> None:
    agent = create_zoom_agent(ScriptedChat(lines=[ZOOM, ANSWER, ANSWER]), checkpointer=InMemorySaver())
    agent.invoke({"messages": [asked("?", picture())]}, CONFIG, durability="sync")
    before = [state for state in agent.get_state_history(CONFIG) if state.next == ("decide",)][-1]
    other = agent.invoke(None, before.config, context={"max_zooms": 0})
    assert [message.type for message in other["messages"]] == ["human", "ai"]
    assert (other["usage"]["zooms"], agent.get_state(CONFIG).values["usage"]["zooms"]) == (0, 0)


def test_a_batch_keeps_its_order_and_its_runs_apart() -> None:
    def sees(messages: list[Any], options: Any) -> AIMessage:
        return AIMessage(f"<answer>{messages[-1].text}</answer>")

    agent = create_zoom_agent(ScriptedChat(lines=[sees]))
    questions: list[Any] = [{"messages": [asked(f"{n}", picture(64 + 32 * (n % 3), 64))]} for n in range(24)]
    results = asyncio.run(agent.abatch(questions, {"max_concurrency": 8}))
    assert [result["answer"] for result in results] == [str(n) for n in range(24)]
    assert [result["views"][0]["width"] for result in results[:3]] == [
        results[n + 3]["views"][0]["width"] for n in range(3)
    ]
