"""The public surface: sorted, complete, documented, and loaded only when it is used."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import SystemMessage

import vtagent
from tests.fakes import scripted_vlm
from tests.scripted_chat import ANSWER, ScriptedChat, asked, picture
from vtagent.extras import EXTRAS, missing_extra
from vtagent.images import MemoryImageStore
from vtagent.models.lazy import LazyVLM

ROOT = Path(__file__).parent.parent
ROOMS = ("vtagent", "vtagent.eyes", "vtagent.graphs", "vtagent.graphs.document_qa", "vtagent.models", "vtagent.tools")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def python(code: str) -> str:
    """What code prints in a fresh interpreter."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_is_there_and_says_what_it_is(room: str) -> None:
    module = importlib.import_module(room)
    assert module.__doc__
    for name in module.__all__:
        public = getattr(module, name)
        assert public.__doc__, name


@pytest.mark.parametrize("room", ROOMS)
def test_the_public_names_are_sorted_and_listed_by_dir(room: str) -> None:
    module = importlib.import_module(room)
    names = list(module.__all__)
    assert len(set(names)) == len(names)
    assert set(names) <= set(dir(module))
    for kind in (str.isupper, lambda name: name[0].isupper() and not name.isupper(), str.islower):
        kept = [name for name in names if kind(name.strip("_"))]
        assert kept == sorted(kept)


def test_no_room_offers_more_than_a_reader_can_hold() -> None:
    rooms = [room for room in ROOMS if room != "vtagent"]  # it repeats what most programs need of the rooms
    assert all(len(importlib.import_module(room).__all__) <= 14 for room in rooms)
    assert len(vtagent.__all__) <= 26


def test_what_a_room_defines_for_others_it_exports() -> None:
    """A name in a module's own `__all__` that the docs mention can be imported from its room."""
    for room in ("vtagent.graphs", "vtagent.models", "vtagent.tools", "vtagent.eyes"):
        module = importlib.import_module(room)
        for name in module.__all__:
            home = inspect.getmodule(getattr(module, name))
            if home is not None and inspect.isroutine(getattr(module, name)):
                assert home.__name__.startswith(room), name


def table(room: str) -> dict[str, str]:
    """Name → line, as the page lists the public names of a room."""
    (section,) = re.findall(rf"^## `{room}`\n(.*?)(?=^## |\Z)", API, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", section, re.MULTILINE)
    return {name: line for names, line in rows for name in re.findall(r"`(\w+)`", names)}


@pytest.mark.parametrize("room", ROOMS)
def test_the_page_lists_the_public_surface_one_line_each(room: str) -> None:
    listed = table(room)
    assert list(listed) == list(dict.fromkeys(listed))
    assert set(listed) == set(importlib.import_module(room).__all__)
    assert all(len(line) > 8 for line in listed.values())


# --- one import for all -----------------------------------------------------------------------------------------------


def test_importing_vtagent_loads_no_other_package() -> None:
    code = """
import sys
before = set(sys.modules)
import vtagent
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names)), sorted(dir(vtagent)) == dir(vtagent))
"""
    assert python(code) == "['vtagent'] True\n"


@pytest.mark.parametrize("name", [name for name in vtagent.__all__ if name != "__version__"])
def test_a_name_of_the_package_is_the_object_of_its_room(name: str) -> None:
    public = getattr(vtagent, name)
    assert public is getattr(importlib.import_module(f"vtagent.{vtagent._HOMES[name]}"), name)
    assert public is getattr(vtagent, name)


def test_the_names_for_type_checkers_are_the_names_at_run_time() -> None:
    tree = ast.parse((ROOT / "vtagent" / "__init__.py").read_text(encoding="utf-8"))
    [typed] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    homes = {
        alias.name: str(node.module).removeprefix("vtagent.")
        for node in typed.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert homes == vtagent._HOMES
    assert set(vtagent.__all__) == {*homes, "__version__"}


def test_a_function_is_not_hidden_by_the_module_of_its_name_whichever_comes_first() -> None:
    assert python("import vtagent.ingest; from vtagent import ingest; print(callable(ingest))") == "True\n"
    assert python("from vtagent import ingest; import vtagent.ingest; print(callable(vtagent.ingest))") == "True\n"
    modules = {module.name for module in pkgutil.iter_modules(vtagent.__path__)}
    assert modules & set(vtagent.__all__) == {"ingest"}


def test_rooms_need_no_import_of_their_own() -> None:
    assert python("import vtagent; print(vtagent.views.View is vtagent.View)") == "True\n"


def test_a_name_that_does_not_exist_raises_the_usual_errors() -> None:
    with pytest.raises(AttributeError, match="module 'vtagent' has no attribute 'create_zoom_agnet'"):
        vtagent.create_zoom_agnet  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="create_zoom_agnet"):
        exec("from vtagent import create_zoom_agnet")


def test_the_version_is_the_installed_one() -> None:
    assert vtagent.__version__ == version("vtagent")


def test_a_checkout_that_is_not_installed_has_a_version_too() -> None:
    code = f"""
import importlib.metadata, sys
sys.path.insert(0, {str(ROOT)!r})
def version(name):
    raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = version
import vtagent
print(vtagent.__version__)
"""
    assert python(code) == "0+unknown\n"


def test_a_name_whose_extra_is_missing_says_which() -> None:
    code = """
import sys
sys.modules["langchain"] = None
try:
    from vtagent import ZoomMiddleware
except ModuleNotFoundError as error:
    print(error.name, "|", error)
"""
    expected = "vtagent.ZoomMiddleware: this needs an extra: pip install 'vtagent[agents]'\n"
    assert python(code).partition(" | ")[2] == expected


def test_every_extra_that_is_named_is_declared() -> None:
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(EXTRAS.values()) <= set(declared)


def test_a_module_of_no_extra_is_not_explained() -> None:
    assert missing_extra(ModuleNotFoundError(name="rich.console")) == "this needs an extra: pip install 'vtagent[cli]'"
    assert missing_extra(ModuleNotFoundError(name="langgraph.checkpoint")) is None
    assert missing_extra(ModuleNotFoundError()) is None


# --- arguments that were renamed --------------------------------------------------------------------------------------

BUILDERS: dict[str, Any] = {
    "create_zoom_agent": lambda **named: vtagent.create_zoom_agent(ScriptedChat(lines=[ANSWER]), **named),
    "build_zoom_graph": lambda **named: vtagent.build_zoom_graph(ScriptedChat(lines=[ANSWER]), **named),
    "ZoomMiddleware": vtagent.ZoomMiddleware,
}


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize(("old", "new"), [("prompt", "system_prompt"), ("store", "image_store")])
def test_an_old_argument_works_and_warns_where_it_is_given(name: str, old: str, new: str) -> None:
    value = "Be brief." if old == "prompt" else MemoryImageStore()
    with pytest.warns(DeprecationWarning, match=f"{name}: the argument '{old}' is now called '{new}'") as caught:
        BUILDERS[name](**{old: value})
    assert [Path(each.filename).name for each in caught] == [Path(__file__).name]
    with pytest.raises(TypeError, match=f"{name} got both '{new}' and '{old}', its old name"):
        BUILDERS[name](**{old: value, new: value})
    assert list(inspect.signature(getattr(vtagent, name)).parameters).count(new) == 1


def test_the_old_argument_does_what_the_new_one_does() -> None:
    store = MemoryImageStore()
    told = []
    for given in ({"prompt": "Be brief.", "store": store}, {"system_prompt": "Be brief.", "image_store": store}):
        model = ScriptedChat(lines=[ANSWER])
        if "prompt" in given:
            with pytest.warns(DeprecationWarning, match="create_zoom_agent"):
                agent = vtagent.create_zoom_agent(model, **given)  # type: ignore[arg-type]
        else:
            agent = vtagent.create_zoom_agent(model, **given)  # type: ignore[arg-type]
        agent.invoke({"messages": [asked("?", picture())]})
        told.append([message.content for message in model.seen[0]])
        assert agent.builder.store is store
    assert told[0] == told[1]


def test_a_chat_models_store_has_its_old_name_too() -> None:
    store = MemoryImageStore()
    with pytest.warns(DeprecationWarning, match="ChatVLM: the argument 'store' is now called 'image_store'") as caught:
        model = scripted_vlm([], store=store)
    assert Path(caught[0].filename).name == "fakes.py"
    with pytest.warns(DeprecationWarning, match=r"ChatVLM\.store is now called image_store"):
        assert model.store is store
    assert model.image_store is store
    assert "store" not in type(model).model_fields
    with pytest.warns(DeprecationWarning, match="LazyVLM: the argument 'store'"):
        assert LazyVLM(path="zoom", store=store).image_store is store
    with pytest.raises(TypeError, match="ChatVLM got both"):
        scripted_vlm([], store=store, image_store=store)


@pytest.mark.parametrize("where", ["graph", "middleware"])
@pytest.mark.parametrize(
    "content", ["Be brief.", [{"type": "text", "text": "Be brief.", "cache_control": {"type": "x"}}]]
)
def test_the_system_prompt_may_be_a_message_as_in_create_agent(where: str, content: Any) -> None:
    model = ScriptedChat(lines=[ANSWER])
    prompt = SystemMessage(content)
    agent: Any
    if where == "graph":
        agent = vtagent.create_zoom_agent(model, system_prompt=prompt)
        agent.invoke({"messages": [SystemMessage("Answer in German."), asked("?", picture())]})
    else:
        agent = create_agent(
            model,
            system_prompt="Answer in German.",
            middleware=[vtagent.ZoomMiddleware(system_prompt=prompt)],
        )
        agent.invoke({"messages": [asked("?", picture())]})
    [system] = [message for message in model.seen[0] if message.type == "system"]
    ours = system.content if isinstance(content, str) else [block for block in system.content if block in content]
    assert ours == content if not isinstance(content, str) else "Be brief." in ours
    assert "Answer in German." in system.text
    assert prompt.content == content


def test_a_system_message_of_blocks_alone_reaches_the_model_as_it_is() -> None:
    model = ScriptedChat(lines=[ANSWER])
    blocks: list[str | dict[Any, Any]] = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    vtagent.create_zoom_agent(model, system_prompt=SystemMessage(blocks)).invoke({"messages": [asked("?", picture())]})
    assert model.seen[0][0].content == blocks
