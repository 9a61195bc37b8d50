"""The layout's promises: arrows that go one way, a core without torch, and a wheel that claims no name but its own."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.distributions import ROOT, copy_repository, run_python

# Everything that the core may not need. The extras bring it; httpx, which one of them names, comes with LangChain too.
HEAVY = {"torch", "transformers", "numpy", "trl", "accelerate", "peft", "datasets", "matplotlib", "vllm"}
HEAVY |= {"openai", "langchain_openai", "langchain", "typer", "rich", "jinja2", "math_verify", "tensorboard"}
HEAVY |= {"pypdfium2", "bm25s", "rapidocr", "onnxruntime", "cv2"}
HEAVY |= {"psycopg", "langgraph.checkpoint.sqlite", "langgraph.checkpoint.postgres"}
HEAVY |= {"mcp", "uvicorn"}

# The modules that may stand on an extra: the command line's output, and the engines behind the models' contract.
CORE_MODELS = {"vtagent.models", "vtagent.models.capabilities", "vtagent.models.chat", "vtagent.models.engine"}
CORE_MODELS |= {"vtagent.models.delegating", "vtagent.models.pixel_model"}

COMPOSITION_ROOT = {
    "vtagent.cli",
    "vtagent.__main__",
    "vtagent.chat_command",
    "vtagent.docqa_command",
    "vtagent.mcp_command",
}
FOR_THE_TERMINAL = {
    "vtagent.cli",
    "vtagent.__main__",
    "vtagent.chat_command",
    "vtagent.docqa_command",
    "vtagent.terminal",
}
FOR_MCP = {"vtagent.mcp.server", "vtagent.mcp_command"}
FOR_AGENTS = {"vtagent.graphs.middleware", "vtagent.graphs.agent_turn", "vtagent.graphs.agent_zooms"}


def needs_an_extra(module: str) -> bool:
    behind = module.startswith("vtagent.models.") and module not in CORE_MODELS
    return behind or module in FOR_THE_TERMINAL | FOR_AGENTS | FOR_MCP


LINKED = {"tools", "graphs", "training"}


def modules(folder: str) -> dict[str, Path]:
    """Every module below one of the four folders, by its import name."""
    package = "vtagent" if folder == "vtagent" else f"vtagent.{folder}"
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT / folder).with_suffix("").parts
        if folder == "vtagent" and parts[0] in LINKED:
            continue
        found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def imports(path: Path, module: str) -> set[str]:
    """Every module that a file imports, at any depth, under its absolute name."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            found.update({source, *(f"{source}.{alias.name}" for alias in node.names)})
    return found


def reaches(names: set[str], forbidden: str) -> set[str]:
    return {name for name in names if name == forbidden or name.startswith(forbidden + ".")}


@pytest.mark.parametrize(
    ("folder", "unknown"),
    [
        ("vtagent", ["vtagent.tools", "vtagent.graphs", "vtagent.training", "langgraph", "trl"]),
        ("tools", ["vtagent.graphs", "vtagent.training", "trl"]),
        ("graphs", ["vtagent.training", "trl", "torch"]),
    ],
)
def test_arrows_go_one_way(folder: str, unknown: list[str]) -> None:
    for module, path in modules(folder).items():
        if module in COMPOSITION_ROOT:
            continue
        if module == "vtagent":  # names all rooms, and loads none: test_public_names.py
            continue
        for name in unknown:
            assert not reaches(imports(path, module), name), f"{module} may know nothing of {name}"


@pytest.mark.parametrize("folder", ["vtagent", "tools", "graphs", "training"])
def test_our_modules_are_imported_by_their_full_names(folder: str) -> None:
    for module, path in modules(folder).items():
        for name in LINKED:
            assert not reaches(imports(path, module), name), f"{module}: {name} may be an application's own"


def test_every_module_opens_with_a_sentence() -> None:
    for folder in ("vtagent", *sorted(LINKED)):
        for module, path in modules(folder).items():
            tree = ast.parse(path.read_text(encoding="utf-8"))
            if tree.body:
                assert ast.get_docstring(tree), f"{module} does not say what it is"


def test_the_core_imports_without_torch_transformers_or_numpy() -> None:
    core = {name for folder in ("vtagent", "tools", "graphs") for name in modules(folder)}
    names = sorted(name for name in core if not needs_an_extra(name))
    run_blocked(f"for name in {names!r}: importlib.import_module(name)")


def run_blocked(code: str) -> None:
    """Run code in a fresh interpreter where importing anything heavy fails."""
    blocker = f"""
import importlib, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if {{name, name.partition(".")[0]}} & {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked by a test)", name=name)
sys.meta_path.insert(0, Blocked())
"""
    run_python("-c", blocker + code)


def test_the_editable_install_is_a_path_that_type_checkers_can_follow() -> None:
    found = metadata.distributions(name="vtagent")  # the checkout's own egg-info is one of them
    files = [file for each in found for file in each.files or []]
    paths = [Path(str(file.locate())) for file in files if file.suffix == ".pth"]
    if not paths:
        pytest.skip("vtagent is not installed in editable form")
    for line in "\n".join(path.read_text(encoding="utf-8") for path in paths).split():
        assert (Path(line) / "vtagent" / "__init__.py").is_file(), f"{line}: a hook, not a path"


@pytest.mark.parametrize("command", ["pretrain", "evaluate", "grpo", "select", "rollouts", "ablation", "starts"])
def test_training_commands_run_from_a_checkout(command: str) -> None:
    assert "usage" in run_python("-m", f"training.{command}", "--help").lower()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of what the repository would hold."""
    work = tmp_path_factory.mktemp("wheel")
    tree = copy_repository(work / "tree")
    run_python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(work / "dist"), str(tree))
    (built,) = (work / "dist").glob("*.whl")
    return built


def test_the_wheel_claims_one_name_and_carries_every_module(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"vtagent"}
    for folder in ("vtagent", *sorted(LINKED)):
        for path in modules(folder).values():
            assert (("" if folder == "vtagent" else "vtagent/") + path.relative_to(ROOT).as_posix()) in names
    assert "vtagent/py.typed" in names
    weights = [path for path in (ROOT / "vtagent" / "policies").rglob("*") if path.suffix != ".py" and path.is_file()]
    assert {path.relative_to(ROOT).as_posix() for path in weights} <= names


APPLICATION = """
import sys
root, installed = sys.argv[1:]
sys.path[:] = [path for path in sys.path if path != root]  # where an editable install puts it
sys.path.insert(1, installed)
import tools, graphs, training
import vtagent.tools.zoom_image, vtagent.graphs.zoom, vtagent.training

theirs = [tools.OWNER, graphs.OWNER, training.OWNER]
assert theirs == ["the application"] * 3, theirs
for ours in (vtagent.tools, vtagent.graphs, vtagent.training):
    assert ours.__file__.startswith(installed), ours.__file__
"""


def test_the_wheel_works_in_an_application_with_its_own_tools_graphs_and_training(wheel: Path, tmp_path: Path) -> None:
    installed, application = tmp_path / "site", tmp_path / "application"
    zipfile.ZipFile(wheel).extractall(installed)
    for name in LINKED:
        (application / name).mkdir(parents=True)
        (application / name / "__init__.py").write_text("OWNER = 'the application'\n")
    (application / "main.py").write_text(APPLICATION)
    run_python("main.py", str(ROOT), str(installed), cwd=application)


MCP_CLIENT = """
import asyncio, json, re, sys, time
from pathlib import Path
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

async def main():
    import os
    began = time.perf_counter()
    server = StdioServerParameters(command=sys.argv[1], args=["mcp", "--root", sys.argv[2]], env=dict(os.environ))
    async with stdio_client(server) as streams, ClientSession(*streams) as session:
        await session.initialize()
        looked = await session.call_tool("look", {"image": "small-print.png"})
        seconds = time.perf_counter() - began
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        peaks = [re.findall(r"VmHWM:\\s+(\\d+)", Path(f"/proc/{child}/status").read_text())[0] for child in children]
        peak = max(map(int, peaks))
        print(json.dumps({"pixels": len(looked.content[1].data), "seconds": seconds, "megabytes": peak / 1024}))

asyncio.run(main())
"""


def test_the_readmes_way_to_install_works_in_a_fresh_environment_without_a_network(wheel: Path, tmp_path: Path) -> None:
    """`pip install .` builds this wheel and installs it; what it needs comes from the environment of the tests."""
    assert "pip install '.[cli,local]'" in (ROOT / "README.md").read_text(encoding="utf-8")
    run_python("-m", "venv", "--without-pip", str(tmp_path / "venv"))
    python = tmp_path / "venv" / "bin" / "python"
    run_python("-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel))
    packages = [entry for entry in sys.path if entry.endswith("site-packages")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(packages)}
    command = tmp_path / "venv" / "bin" / "vtagent"

    def run(*arguments: object) -> str:
        done = subprocess.run(
            list(map(str, arguments)), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(python, "-c", "import vtagent; print(vtagent.__file__)")
    assert where.startswith(str(tmp_path / "venv")), where
    assert run(command, "--version") == f"vtagent {metadata.version('vtagent')}\n"
    page = ROOT / "examples" / "documents" / "small-print.png"
    assert run(command, "ask", page, "What is the Total?").startswith("$170.71")
    # An agent starts the server of the wheel; its first look comes soon, in little memory, without a model.
    client = tmp_path / "client.py"
    client.write_text(MCP_CLIENT)
    figures = json.loads(run(python, client, command, page.parent))
    assert figures["pixels"] > 0
    assert figures["megabytes"] < 150
