"""What is published: both distributions pass twine's check, and tests run from the source distribution."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from tests.distributions import ROOT, copy_repository, run_python

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GITHUB = sorted((ROOT / ".github").rglob("*.yml"))


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, built from what the repository would hold, and the wheel that is built from it."""
    work = tmp_path_factory.mktemp("dist")
    tree = copy_repository(work / "tree")
    run_python("-m", "build", "--no-isolation", "--outdir", str(work / "dist"), ".", cwd=tree, seconds=280)
    [source] = (work / "dist").glob("*.tar.gz")
    [wheel] = (work / "dist").glob("*.whl")
    return source, wheel


def test_both_pass_twines_check(distributions: tuple[Path, Path]) -> None:
    said = run_python("-m", "twine", "--no-color", "check", "--strict", *map(str, distributions), seconds=280)
    assert said.count("PASSED") == 2


def test_the_wheel_of_the_source_distribution_holds_every_module_and_policy(distributions: tuple[Path, Path]) -> None:
    names = set(zipfile.ZipFile(distributions[1]).namelist())
    for path in ROOT.joinpath("vtagent").rglob("*"):
        if path.suffix in (".py", ".safetensors", ".jinja", ".yaml") and "__pycache__" not in path.parts:
            assert path.relative_to(ROOT).as_posix() in names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"vtagent"}


def test_tests_run_from_the_source_distribution(distributions: tuple[Path, Path], tmp_path: Path) -> None:
    with tarfile.open(distributions[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    [tree] = tmp_path.iterdir()
    files = ["tests/test_regions.py", "tests/test_zoom_graph.py", "tests/test_mcp.py", "tests/test_readme.py"]
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    said = run_python(*command, cwd=tree, seconds=280, PYTHONPATH=str(tree))
    assert re.search(r"\d+ passed", said)


def test_the_citation_and_the_changelog_know_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[(Unreleased|{re.escape(PROJECT['version'])})\]", changes, re.MULTILINE)


def test_what_the_release_workflow_makes_exists() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["build"]["steps"]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    made = {step["run"].removeprefix("make ") for step in steps if step.get("run", "").startswith("make ")}
    assert made == {"check", "dist"}
    assert made <= targets
    [compare] = [step["run"] for step in steps if "GITHUB_REF_NAME" in step.get("run", "")]
    for tag, code in (f"v{PROJECT['version']}", 0), ("v9.9.9", 1):
        known = {**os.environ, "GITHUB_REF_NAME": tag}
        assert subprocess.run(["bash", "-c", compare], cwd=ROOT, env=known, check=False).returncode == code


@pytest.mark.parametrize("path", [path for path in GITHUB if "ISSUE" in str(path)], ids=lambda path: path.name)
def test_issue_templates_have_what_their_host_asks_for(path: Path) -> None:
    template = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name == "config.yml":
        assert set(template) == {"blank_issues_enabled"}
        return
    assert {"name", "description", "body"} <= set(template)
    ids = [part["id"] for part in template["body"]]
    assert len(set(ids)) == len(ids) > 0
    assert all(part["attributes"]["label"] for part in template["body"])


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md"])
def test_links_of_the_guides_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target
