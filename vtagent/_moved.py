"""Old import paths, names and arguments of public objects work, with a DeprecationWarning that gives the new one."""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MODULES: Mapping[str, str] = {
    "vtagent.graphs.in_use": "vtagent.graphs.checkpoints",
    "vtagent.graphs.offload": "vtagent.graphs.checkpoints",
    "vtagent.graphs.served": "vtagent.graphs.server",
    "vtagent.models.served": "vtagent.models.openai_server",
    "vtagent.models.served_weights": "vtagent.models.vllm.weights",
    "vtagent.models.transformers": "vtagent.models.local.engine",
    "vtagent.served": "vtagent.models.openai_server",
    "vtagent.tools.shown": "vtagent.conversation",
    "vtagent.training.pages": "vtagent.training.documents",
    "vtagent.training.pages.documents": "vtagent.training.documents.render",
    "vtagent.training.pages.values": "vtagent.training.documents.values",
}
"""Old module → the module that holds its public names now."""

NAMES: Mapping[str, Mapping[str, str]] = {
    "vtagent.training.data": {"Rows": "MemoryTable"},
}
"""Module → old name → present name in the same module."""


def renamed(module: str, name: str) -> object:
    """Look up an old name, with a DeprecationWarning. A module in `NAMES` calls this in its `__getattr__`.

    Args:
        module: The full name of the module.
        name: The attribute that it does not have.

    Returns:
        The object under its present name.

    Raises:
        AttributeError: `module` never had this attribute.
    """
    new = NAMES.get(module, {}).get(name)
    if new is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    warnings.warn(f"{module}.{name} is now called {module}.{new}", DeprecationWarning, stacklevel=3)
    return getattr(sys.modules[module], new)


def renamed_arguments(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function or `__init__` so that the old names of its keyword arguments work, with a DeprecationWarning.

    Args:
        **names: Old name → present name. A call that gives both raises TypeError.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        called = function.__qualname__.removesuffix(".__init__")

        @functools.wraps(function)
        def with_present_names(*args: P.args, **kwargs: P.kwargs) -> R:
            _rename(called, kwargs, names)
            return function(*args, **kwargs)

        return with_present_names

    return decorate


def _rename(called: str, given: MutableMapping[str, Any], names: Mapping[str, str]) -> None:
    """Give the arguments of a call their present names; the warning points to the caller of the decorated function.

    Raises:
        TypeError: An argument is given under both names.
    """
    for old, new in names.items():
        if old not in given:
            continue
        if new in given:
            raise TypeError(f"{called} got both {new!r} and {old!r}, its old name: leave {old!r} out")
        warnings.warn(f"{called}: the argument {old!r} is now called {new!r}", DeprecationWarning, stacklevel=3)
        given[new] = given.pop(old)


def old_attribute(old: str, new: str) -> property:
    """Make a property that reads an attribute under its old name, with a DeprecationWarning.

    Args:
        old: The old name.
        new: The present name.
    """

    def read(self: object) -> Any:
        warnings.warn(f"{type(self).__name__}.{old} is now called {new}", DeprecationWarning, stacklevel=2)
        return getattr(self, new)

    return property(read)


class _MovedModules(MetaPathFinder, Loader):
    """Finds the modules of `MODULES`; last in `sys.meta_path`, so that a module that exists is never hidden."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in MODULES:
            return None
        return ModuleSpec(fullname, self, is_package=any(name.startswith(f"{fullname}.") for name in MODULES))

    def exec_module(self, module: ModuleType) -> None:
        old, new = module.__name__, MODULES[module.__name__]
        # The frames of the import system are not counted: this is the line of the import statement.
        warnings.warn(f"{old} has moved to {new}", DeprecationWarning, stacklevel=2)
        present = importlib.import_module(new)
        module.__doc__ = f"Moved to `{new}`."
        module.__dict__["__getattr__"] = lambda name: getattr(present, name)


def install() -> None:
    """Make the old paths importable. Importing `vtagent` calls this; a second call has no effect."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(_MovedModules())
