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
    "vtagent.graphs.in_sight": "vtagent.conversation",
    "vtagent.graphs.in_use": "vtagent.graphs.checkpoints",
    "vtagent.graphs.ledger": "vtagent.graphs.budgets",
    "vtagent.graphs.offload": "vtagent.graphs.checkpoints",
    "vtagent.graphs.replies": "vtagent.graphs.tool_calls",
    "vtagent.graphs.resolve": "vtagent.graphs.model_call",
    "vtagent.graphs.served": "vtagent.graphs.server",
    "vtagent.graphs.tally": "vtagent.graphs.agent_zooms",
    "vtagent.graphs.unreadable": "vtagent.graphs.intake",
    "vtagent.models.data_urls": "vtagent.models.vllm.wire",
    "vtagent.models.decoder": "vtagent.models.local.decoder",
    "vtagent.models.dialogue": "vtagent.models.template",
    "vtagent.models.kv_rows": "vtagent.models.local.kv_cache",
    "vtagent.models.packed_tower": "vtagent.models.local.ops",
    "vtagent.models.prefix_cache": "vtagent.models.local.prefix_cache",
    "vtagent.models.prompt_pass": "vtagent.models.local.decoder",
    "vtagent.models.replies": "vtagent.models.streaming",
    "vtagent.models.rotary": "vtagent.models.local.ops",
    "vtagent.models.row": "vtagent.models.local.sequence",
    "vtagent.models.sampling": "vtagent.models.local.sampling",
    "vtagent.models.scheduler": "vtagent.models.local.scheduler",
    "vtagent.models.served": "vtagent.models.openai_server",
    "vtagent.models.served_weights": "vtagent.models.vllm.weights",
    "vtagent.models.tower": "vtagent.models.local.vision_tower",
    "vtagent.models.transformers": "vtagent.models.local.engine",
    "vtagent.models.vision": "vtagent.models.local.vision",
    "vtagent.models.vllm_http": "vtagent.models.vllm.http",
    "vtagent.models.vllm_weights": "vtagent.models.vllm.weights",
    "vtagent.models.vllm_wire": "vtagent.models.vllm.wire",
    "vtagent.served": "vtagent.models.openai_server",
    "vtagent.tools.shown": "vtagent.conversation",
    "vtagent.training.data.opening": "vtagent.training.data.files",
    "vtagent.training.data.pictures": "vtagent.training.data.image_bytes",
    "vtagent.training.measure.ablation": "vtagent.training.ablation",
    "vtagent.training.measure.identity": "vtagent.training.measure.journal",
    "vtagent.training.measure.progress": "vtagent.training.progress",
    "vtagent.training.measure.tables": "vtagent.training.measure.markdown",
    "vtagent.training.pages": "vtagent.training.documents",
    "vtagent.training.pages.documents": "vtagent.training.documents.render",
    "vtagent.training.pages.values": "vtagent.training.documents.values",
    "vtagent.training.rl.images": "vtagent.training.rl.forward",
    "vtagent.training.rl.order": "vtagent.training.rl.checkpoints",
    "vtagent.training.rl.page": "vtagent.training.rollouts",
    "vtagent.training.rl.probes": "vtagent.training.measure.asking",
    "vtagent.training.rl.progress": "vtagent.training.rl.callbacks",
    "vtagent.training.rl.rows": "vtagent.training.rl.samples",
    "vtagent.training.rl.serving": "vtagent.training.rl.weights",
    "vtagent.training.selection.report": "vtagent.training.select",
    "vtagent.training.selection.sampler": "vtagent.training.selection.runner",
    "vtagent.training.supervised": "vtagent.training.pretraining",
    "vtagent.training.supervised.batched": "vtagent.training.pretraining.batched",
    "vtagent.training.supervised.lessons": "vtagent.training.pretraining.lessons",
    "vtagent.training.supervised.packing": "vtagent.training.pretraining.packing",
    "vtagent.training.supervised.policy": "vtagent.training.pretraining.policy",
    "vtagent.training.supervised.probe": "vtagent.training.pretraining.probe",
    "vtagent.training.supervised.rows": "vtagent.training.pretraining.supervision",
}
"""Old module → the module that holds its public names now."""

NAMES: Mapping[str, Mapping[str, str]] = {
    "vtagent.graphs.checkpoints": {"names_instead_of_pictures": "names_instead_of_images"},
    "vtagent.ingest": {"ingest_one": "ingest_message"},
    "vtagent.models.families": {"resolve": "checkpoint_path"},
    "vtagent.models.local.sequence": {"Row": "SequenceState"},
    "vtagent.models.local.vision_tower": {"Tower": "VisionTower"},
    "vtagent.models.vllm.wire": {
        "Reply": "ReplyAccumulator",
        "Served": "ServedModel",
        "Trouble": "TransientError",
        "body": "request_body",
        "served": "find_model",
    },
    "vtagent.training.data": {"Rows": "MemoryTable"},
    "vtagent.training.data.image_bytes": {"picture_bytes": "image_bytes"},
    "vtagent.training.pretraining.lessons": {"Lessons": "LessonDataset"},
    "vtagent.training.pretraining.packing": {"PackedRow": "PackedSequence"},
    "vtagent.training.rl.samples": {"Row": "TrainingSample", "RowMaker": "SampleMaker"},
    "vtagent.training.selection.runner": {"Sampler": "TrialRunner"},
}
"""Module, by its present path → old name → present name."""


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
    """Finds the modules of `MODULES`. It comes first: an old folder with leftover bytecode would count as a package."""

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
        names = NAMES.get(new, {})
        module.__dict__["__getattr__"] = lambda name: getattr(present, names.get(name, name))


def install() -> None:
    """Make the old paths importable. Importing `vtagent` calls this; a second call has no effect."""
    if not any(isinstance(finder, _MovedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _MovedModules())
