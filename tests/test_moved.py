"""Old import paths and names work, and say the new ones."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from vtagent import _moved
from vtagent.training import data
from vtagent.training.data.tables import MemoryTable

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def not_imported() -> Iterator[None]:
    """Each test imports the old modules for the first time, and none stays."""
    _forget()
    yield
    _forget()


def _forget() -> None:
    for old in _moved.MODULES:
        sys.modules.pop(old, None)


def public(module: ModuleType) -> list[str]:
    return getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]


@pytest.mark.parametrize(("old", "new"), _moved.MODULES.items())
def test_an_old_module_warns_once_and_has_the_objects_of_the_new_one(old: str, new: str) -> None:
    present = importlib.import_module(new)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module = importlib.import_module(old)
        assert importlib.import_module(old) is module
    assert [str(each.message) for each in caught].count(f"{old} has moved to {new}") == 1
    assert {each.category for each in caught} == {DeprecationWarning}
    assert public(present) or (present.__file__ or "").endswith("__init__.py")
    for name in public(present):
        assert getattr(module, name) is getattr(present, name)
    for name, renamed in _moved.NAMES.get(new, {}).items():
        assert getattr(module, name) is getattr(present, renamed)


@pytest.mark.parametrize("old", _moved.MODULES)
def test_an_old_path_is_no_module_that_exists(old: str) -> None:
    folder = ROOT / "/".join(old.removeprefix("vtagent.").split("."))
    inside = ROOT / "vtagent" / folder.relative_to(ROOT)
    for place in (folder, inside):
        assert not place.with_suffix(".py").exists()
        assert not (place / "__init__.py").exists()


def test_the_warning_points_to_the_import_and_vtagent_alone_need_be_imported() -> None:
    code = "import vtagent\n\nfrom vtagent.graphs.served import zoom_agent\n"
    command = [sys.executable, "-W", "default::DeprecationWarning:__main__", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=True)
    assert "<string>:3: DeprecationWarning: vtagent.graphs.served has moved to vtagent.graphs.server" in done.stderr


def test_a_module_that_never_existed_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'vtagent\.graphs\.nowhere'"):
        importlib.import_module("vtagent.graphs.nowhere")


def test_a_name_that_a_moved_module_never_had_raises_the_usual_error() -> None:
    with pytest.warns(DeprecationWarning, match="has moved"):
        module = importlib.import_module("vtagent.graphs.served")
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        module.nothing_of_the_kind  # noqa: B018


def test_an_old_name_gives_the_renamed_object_and_warns() -> None:
    with pytest.warns(
        DeprecationWarning, match=r"data\.Rows is now called vtagent\.training\.data\.MemoryTable"
    ) as caught:
        assert vars(data)["__getattr__"]("Rows") is MemoryTable
    assert len(caught) == 1


KEPT = [module for module in _moved.NAMES if module not in _moved.MODULES.values()] + ["vtagent.graphs.checkpoints"]


@pytest.mark.parametrize(("module", "old"), [(module, old) for module in KEPT for old in _moved.NAMES[module]])
def test_every_name_that_changed_in_its_module_is_reached_by_its_old_name(module: str, old: str) -> None:
    home = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=old):
        assert getattr(home, old) is getattr(home, _moved.NAMES[module][old])


def test_a_name_that_never_existed_raises_the_usual_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'vtagent\.training\.data' has no attribute 'Columm'"):
        getattr(data, "Columm")  # noqa: B009
    with pytest.raises(ImportError, match="Columm"):
        exec("from vtagent.training.data import Columm")


def test_installing_again_changes_nothing() -> None:
    before = list(sys.meta_path)
    _moved.install()
    assert sys.meta_path == before
