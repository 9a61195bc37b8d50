"""Old import paths and names of public objects: they still work, with a DeprecationWarning that gives the new one."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

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
