"""Finds what a setting names by its place: a graph, as `package.module:build`, or a reward function.

A module is imported, so a name from a stranger must not come here. The folder of the command is searched, too.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vtagent.errors import SettingsError, one_line
from vtagent.models.chat import ChatVLM

SERVED = Path("langgraph.json")
"""Where the names of a folder's graphs stand."""


def object_named(name: str, *, setting: str) -> Any:
    """Import an object.

    Args:
        name: "package.module:object" or "folder/file.py:object".
        setting: The setting that names it, for the error.

    Raises:
        SettingsError: There is no such module or object, or importing it fails.
    """
    module, _, attribute = name.rpartition(":")
    if not module or not attribute:
        raise SettingsError(f"{setting}: {name!r}: write package.module:name or file.py:name")
    try:
        found: Any = _module(module)
    except Exception as error:  # it runs code of any kind
        raise SettingsError(f"{setting}: {module!r} cannot be imported: {one_line(error)}") from error
    for step in attribute.split("."):
        try:
            found = getattr(found, step)
        except AttributeError:
            public = [each for each in vars(found) if not each.startswith("_")]
            raise SettingsError(
                f"{setting}: {module!r} has no {attribute!r}; it has {', '.join(sorted(public)[:20]) or 'nothing'}"
            ) from None
    return found


def graph_builder(name: str) -> Callable[[ChatVLM], Any]:
    """The function that builds the graph that a setting names.

    What stands under the name is a compiled graph, a function of a chat model that returns one, or, as in a
    `langgraph.json`, a function without arguments or of a config alone. The graph must call the model of its run's
    context (`runtime.context.model`); a graph of a function of a model may fall back to that one.

    Args:
        name: "package.module:name", "file.py:name", or a name in the `langgraph.json` of this folder.

    Raises:
        SettingsError: There is no such graph. The builder raises it, too, if what it makes is none.
    """
    if ":" not in name:
        name = _served(name)
    found = object_named(name, setting="graph")
    if not callable(found) and not _is_graph(found):
        raise SettingsError(
            f"graph: {name!r} is of type {type(found).__name__}; name a compiled graph, or what makes one"
        )

    def build(model: ChatVLM) -> Any:
        graph = found if _is_graph(found) else _called(found, model)
        if not _is_graph(graph):
            raise SettingsError(
                f"graph: {name!r} makes a {type(graph).__name__}; it must make a compiled graph (call .compile())"
            )
        if getattr(getattr(graph, "builder", None), "store", model.image_store) is not model.image_store:
            raise SettingsError(
                f"graph: {name!r} keeps images in a store of its own, where the trainer's are not: name a function of "
                "a model, such as create_zoom_agent, that builds it with that model's store"
            )
        return graph

    return build


def weighted_functions(pairs: Sequence[str], *, setting: str) -> dict[str, tuple[Callable[..., Any], float]]:
    """The functions that a setting names with their weights, by the last part of their names.

    Args:
        pairs: "package.module:function=WEIGHT" for each.
        setting: The setting, for the error.

    Raises:
        SettingsError: A pair of another form, two functions of one name, or no such function.
    """
    found: dict[str, tuple[Callable[..., Any], float]] = {}
    for pair in pairs:
        place, _, weight = pair.rpartition("=")
        try:
            factor = float(weight)
        except ValueError:
            factor = float("nan")
        if not place or not abs(factor) < float("inf"):
            raise SettingsError(f"{setting}: {pair!r}: write package.module:function=WEIGHT, such as mine:brevity=0.1")
        function = object_named(place, setting=setting)
        name = place.rpartition(":")[2]
        if not callable(function):
            raise SettingsError(f"{setting}: {place!r} is no function")
        if name in found:
            raise SettingsError(f"{setting}: two functions are called {name!r}; rename one")
        found[name] = function, factor
    return found


def _module(name: str) -> Any:
    if not name.endswith(".py"):
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(name)
    path = Path(name).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {name}")
    known = f"vtagent_named_{path.stem}_{abs(hash(path)):x}"
    if known in sys.modules:
        return sys.modules[known]
    spec = importlib.util.spec_from_file_location(known, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[known] = module  # dataclasses and annotations look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[known]
        raise
    return module


def _served(name: str) -> str:
    """The place of a graph that `langgraph.json` names."""
    try:
        graphs = json.loads(SERVED.read_text(encoding="utf-8"))["graphs"]
        places = {key: value["path"] if isinstance(value, dict) else value for key, value in graphs.items()}
    except FileNotFoundError:
        raise SettingsError(
            f"graph: {name!r}: write package.module:name or file.py:name; there is no {SERVED} here that knows names"
        ) from None
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise SettingsError(f"graph: {SERVED} cannot be read: {one_line(error)}") from error
    if name not in places:
        raise SettingsError(f"graph: {SERVED} has no {name!r}; it has {', '.join(sorted(places))}")
    return str(places[name])


def _is_graph(value: object) -> bool:
    return hasattr(value, "ainvoke") and hasattr(value, "get_graph") and not isinstance(value, type)


def _called(function: Callable[..., Any], model: ChatVLM) -> Any:
    """What a function makes; it is given the model, or the empty config that a server would give it."""
    import asyncio

    needed = [
        name
        for name, each in inspect.signature(function).parameters.items()
        if each.default is each.empty and each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)
    ]
    first = next(iter(inspect.signature(function).parameters), None)
    if first is None:
        made = function()
    elif first == "config":
        made = function({"configurable": {}})
    elif len(needed) <= 1:
        made = function(model)
    else:
        raise SettingsError(f"graph: the function needs {', '.join(needed)}; it is given a chat model alone")
    return asyncio.run(made) if inspect.iscoroutine(made) else made
