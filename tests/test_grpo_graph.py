"""Training over a graph of one's own, and rewards of one's own."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from tests.grpo_runs import KNOWN_WARNINGS, generation, logged, page, parameters, trainer
from tests.test_grpo_command import fails
from vtagent import ChatVLM, View, create_zoom_agent
from vtagent.errors import ModelError, SettingsError
from vtagent.images import MemoryImageStore
from vtagent.training import grpo
from vtagent.training.named import graph_builder, object_named, weighted_functions
from vtagent.training.rl.log import read_log
from vtagent.training.rl.rollout import Rollout
from vtagent.training.rollouts import build_page
from vtagent.training.run_example import ending_of

pytestmark = [pytest.mark.filterwarnings(warning) for warning in KNOWN_WARNINGS]

EXAMPLE = f"{Path(__file__).parent.parent / 'examples' / 'own_graph.py'}:build"
SCORES = """
from vtagent.training.rl.log import read_log
from vtagent.training.rl.rollout import Rollout

def brevity(rollout: Rollout) -> float:
    return 1.0 / len(rollout.turns)

async def frugal(rollout: Rollout) -> float:
    return -rollout.shown_of_full

def broken(rollout: Rollout) -> float:
    return float("nan")

accuracy = brevity
number = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a user, who is in it, with reward functions."""
    (tmp_path / "scores_of_mine.py").write_text(SCORES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def policy() -> ChatVLM:
    return ChatVLM.from_pretrained("base", image_store=MemoryImageStore())


# A graph of one's own.


def test_a_graph_that_knows_only_messages_is_trained_over_with_exact_tokens(tmp_path: Path) -> None:
    run = trainer(tmp_path, build=graph_builder(EXAMPLE), check_exactness=True, log_rollouts=True, seed=2)
    before = parameters(run)
    run.train()
    assert logged(run, "rollouts/failed") == [0]
    assert 0 < logged(run, "zoom/all")[0] < 1
    assert 0 < max(logged(run, "exactness/largest_gap")) < 1e-4
    assert {name for name, value in parameters(run).items() if not value.equal(before[name])}
    zoomed = direct = 0
    for line in read_log(tmp_path / "rollouts"):
        counted = (line["zooms"], line["usage"]["turns"], line["usage"]["visual_tokens"], len(line["views"]))
        assert counted in ((0, 1, 35, 1), (1, 2, 175, 2))
        assert line["usage"]["full_visual_tokens"] == 140
        zoomed, direct = zoomed + line["zooms"], direct + (not line["zooms"])
    assert zoomed
    assert direct


def test_the_endings_of_the_zoom_graph_and_of_the_same_graph_of_ones_own_are_counted_alike(policy: ChatVLM) -> None:
    ref = policy.image_store.put(page().image)
    question = HumanMessage([View(ref).block(), {"type": "text", "text": page().question}])
    asked = {"messages": [question]}
    context: Any = {"zoom_bias": 40.0}
    ours = ending_of(create_zoom_agent(policy).invoke(asked, context=context), policy)
    bare = ending_of({"messages": list(ours.messages)}, policy)
    assert ours.usage["zooms"] == bare.usage["zooms"] == 1
    assert bare.answer == ours.answer
    assert bare.views == ours.views
    same = ("visual_tokens", "full_visual_tokens", "input_tokens", "output_tokens", "turns", "zooms", "mistakes")
    counts, own = dict(bare.usage), dict(ours.usage)
    assert [counts[name] for name in same] == [own[name] for name in same]


def test_errors_of_tools_are_mistakes_and_other_states_are_refused(policy: ChatVLM) -> None:
    said = [HumanMessage("?"), AIMessage("<answer>no</answer>"), ToolMessage("x", tool_call_id="1", status="error")]
    assert ending_of({"messages": said}, policy).usage["mistakes"] == 1
    assert ending_of({"messages": [HumanMessage("?")]}, policy).answer is None
    states: list[dict[str, Any]] = [{}, {"messages": []}, {"messages": ["text"]}]
    for state in states:
        with pytest.raises(ModelError, match="left no `messages`"):
            ending_of(state, policy)


def test_graphs_are_found_by_module_by_file_and_in_langgraph_json(mine: Path, policy: ChatVLM) -> None:
    (mine / "graphs_of_mine.py").write_text(
        "from vtagent import create_zoom_agent as build\n"
        "ready = build()\n"
        "async def later(config):\n    assert config == {'configurable': {}}\n    return compiled\n"
        "from langgraph.graph import START, MessagesState, StateGraph\n"
        "compiled = StateGraph(MessagesState).add_node('a', lambda state: {}).add_edge(START, 'a').compile()\n"
        "def without(): return compiled\n"
    )
    served = {"graphs": {"mine": "./graphs_of_mine.py:without", "other": {"path": "./graphs_of_mine.py:later"}}}
    (mine / "langgraph.json").write_text(json.dumps(served))
    for name in ("graphs_of_mine:compiled", "graphs_of_mine.py:compiled", "mine", "other"):
        assert list(graph_builder(name)(policy).get_graph().nodes) == ["__start__", "a", "__end__"]
    assert graph_builder("graphs_of_mine:build")(policy).builder.store is policy.image_store
    with pytest.raises(SettingsError, match="a store of its own"):
        graph_builder("graphs_of_mine:ready")(policy)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "there is no langgraph.json here"),
        ("no_such_package:build", "No module named 'no_such_package'"),
        ("no_such_file.py:build", "there is no file no_such_file.py"),
        ("scores_of_mine:build", "has no 'build'; it has"),
        ("scores_of_mine:number", "is of type int"),
        ("broken_module:build", "cannot be imported: .*nothing works here"),
        (":build", "write package.module:name"),
        ("scores_of_mine:", "write package.module:name"),
    ],
)
def test_a_graph_that_is_not_there_is_one_line_before_the_model_is_loaded(mine: Path, name: str, said: str) -> None:
    (mine / "broken_module.py").write_text("raise RuntimeError('nothing works here')\n")
    common = ["--output_dir", str(mine / "run"), "--use_cpu", "true", "--max_steps", "1", "--save_strategy", "no"]
    line = fails(*common, "--model_name_or_path", "base", "--graph", name)
    with pytest.raises(SettingsError, match=said):
        raise SettingsError(line)
    assert not (mine / "run").exists()


def test_a_name_that_langgraph_json_lacks_and_a_file_that_is_none_are_told(mine: Path) -> None:
    (mine / "langgraph.json").write_text('{"graphs": {"zoom": "./a.py:b"}}')
    with pytest.raises(SettingsError, match="has no 'mine'; it has zoom"):
        graph_builder("mine")
    (mine / "langgraph.json").write_text('{"graphs": ["zoom"]}')
    with pytest.raises(SettingsError, match=r"langgraph\.json cannot be read"):
        graph_builder("mine")


def test_what_makes_no_graph_and_what_needs_more_than_a_model_are_told(mine: Path, policy: ChatVLM) -> None:
    (mine / "odd_graphs.py").write_text("def a(model): return 0.5\ndef b(model, data): return None\n")
    with pytest.raises(SettingsError, match="makes a float"):
        graph_builder("odd_graphs:a")(policy)
    with pytest.raises(SettingsError, match="needs model, data"):
        graph_builder("odd_graphs:b")(policy)


def test_the_command_trains_over_a_graph_and_evaluates_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    common = ["--output_dir", str(out), "--use_cpu", "true", "--max_steps", "1", "--save_strategy", "no"]
    common += ["--num_generations", "2", "--per_device_train_batch_size", "4", "--report_to", "none"]
    common += ["--max_completion_length", "48", "--evaluate_documents", "2", "--activation_checkpointing", "false"]
    monkeypatch.chdir(tmp_path)
    grpo.main([*common, "--model_name_or_path", "base", "--graph", os.path.relpath(EXAMPLE)])
    assert json.loads((out / "run.json").read_text())["graph"].endswith("own_graph.py:build")
    summary = json.loads((out / "evaluation" / "summary.json").read_text())
    assert {row["mode"] for row in summary["rows"]} == {"zoom"}
    assert summary["settings"]["graph"].endswith("own_graph.py:build")
    assert "zoom" in capsys.readouterr().out


# Rewards of one's own.


def test_functions_are_terms_of_the_reward_of_the_log_and_of_the_page(mine: Path) -> None:
    functions = weighted_functions(["scores_of_mine:brevity=0.2", "scores_of_mine:frugal=0.5"], setting="r")
    run = trainer(mine / "run", functions=functions, penalty="off", log_rollouts=True, seed=2)
    run.train()
    lines = list(read_log(mine / "run" / "rollouts"))
    assert {line["zooms"] for line in lines} == {0, 1}
    for line in lines:
        reward, shown = line["reward"], line["usage"]["visual_tokens"] / line["usage"]["full_visual_tokens"]
        assert reward["brevity"] == pytest.approx(0.2 / len(line["turns"]))
        assert reward["frugal"] == pytest.approx(-0.5 * shown)
        terms = ("accuracy", "format", "brevity", "frugal")
        assert reward["total"] == pytest.approx(sum(reward[name] for name in terms))
    assert logged(run, "rewards/brevity/mean") == [
        pytest.approx(sum(line["reward"]["brevity"] for line in lines) / len(lines), abs=1e-6)
    ]
    text = build_page(mine / "run" / "rollouts", lines, title="t", max_bytes=10**7)
    assert '"signs":{"accuracy":1,"format":1,"penalty":-1,"brevity":1,"frugal":1}' in text


def test_a_function_that_cannot_tell_leaves_the_rollout_out(mine: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fails(rollout: Rollout) -> float:
        if rollout.zooms:
            raise RuntimeError("no view of this")
        return 1.0

    run = trainer(mine, functions={"fails": (fails, 1.0)}, seed=2)
    generation(run)
    assert run._generation is not None
    for member in run._generation.members:
        assert (member.reward is None) == bool(member.rollout.zooms)
        assert member.scored.failure == ("judge" if member.rollout.zooms else None)
    assert "the reward function fails failed" in caplog.text


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("scores_of_mine:brevity", "write package.module:function=WEIGHT"),
        ("scores_of_mine:brevity=much", "write package.module:function=WEIGHT"),
        ("scores_of_mine:brevity=inf", "write package.module:function=WEIGHT"),
        ("=1", "write package.module:function=WEIGHT"),
        ("scores_of_mine:number=1", "is no function"),
        ("scores_of_mine:none=1", "has no 'none'"),
    ],
)
def test_a_function_that_is_not_there_is_told(mine: Path, pair: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        weighted_functions([pair], setting="reward_functions")


def test_two_functions_of_one_name_and_names_of_terms_are_refused(mine: Path) -> None:
    with pytest.raises(SettingsError, match="two functions are called 'brevity'"):
        weighted_functions(["scores_of_mine:brevity=1", "scores_of_mine.py:brevity=1"], setting="reward_functions")
    functions = weighted_functions(["scores_of_mine:accuracy=1"], setting="reward_functions")
    with pytest.raises(SettingsError, match="cannot be called accuracy"):
        trainer(mine / "run", functions=functions)


def test_an_object_inside_of_another_is_found() -> None:
    assert object_named("math:pi", setting="s") == math.pi
    assert object_named("pathlib:Path.cwd", setting="s")() == Path.cwd()
