"""docs/measured.md and docs/models.md quote what the benchmarks wrote, word for word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RESULTS = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
PAGE = "\n".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("measured.md", "models.md"))


@pytest.mark.parametrize("result", RESULTS, ids=lambda path: path.stem)
def test_a_table_is_quoted_with_its_command(result: Path) -> None:
    lines = result.read_text(encoding="utf-8").splitlines()
    table = "\n".join(line for line in lines if line.startswith("|"))
    assert table in PAGE
    assert f"python -m benchmarks.{result.stem}" in PAGE
    rows = json.loads(result.with_suffix(".json").read_text(encoding="utf-8"))["rows"]
    assert len(rows) == len(table.splitlines()) - 2


def test_every_benchmark_has_written_its_result() -> None:
    benchmarks = {path.stem for path in (ROOT / "benchmarks").glob("[a-z]*.py")}
    assert benchmarks == {path.stem for path in RESULTS}
