"""`make test-versions` tests what pyproject.toml says: the floors are the versions of constraints-oldest.txt."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
EXTRAS = re.findall(r"'\.\[([\w,]+)\]' --requirement tests/versions", MAKEFILE)


def floors() -> dict[str, str]:
    """Requirement → its oldest version, for all that the environments of `make test-versions` install."""
    extras = sorted({extra for named in EXTRAS for extra in named.split(",")})
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    found: dict[str, str] = {}
    for line in lines:
        requirement = Requirement(line)
        [floor] = [each.version for each in requirement.specifier if each.operator == ">="]
        found[canonicalize_name(requirement.name)] = floor
    return found


def pinned() -> dict[str, str]:
    """The lines of constraints-oldest.txt."""
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_both_environments_install_the_same_extras() -> None:
    assert len(EXTRAS) == 2
    assert len(set(EXTRAS)) == 1
    assert {"langgraph", "langchain-core", "langchain", "pydantic", "pillow"} <= set(floors())


@pytest.mark.parametrize(("name", "floor"), floors().items())
def test_every_floor_is_the_version_that_is_tested(name: str, floor: str) -> None:
    assert Version(pinned()[name]) == Version(floor)


def test_what_is_tested_is_there_and_needs_no_torch() -> None:
    files = (ROOT / "tests" / "versions" / "files.txt").read_text(encoding="utf-8").split("\n")
    names = [line for line in files if line and not line.startswith("#")]
    assert names == sorted(names)
    for name in names:
        assert not re.search(r"^(from|import) (torch|transformers)", (ROOT / name).read_text(encoding="utf-8"), re.M)
    assert not {"torch", "transformers"} & {*pinned(), *floors()}
