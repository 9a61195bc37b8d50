"""Make one self-contained HTML page of logged rollouts, to read what a policy did and what it earned.

    python -m vtagent.training.rollouts runs/grpo/rollouts
    python -m vtagent.training.rollouts runs/grpo --steps 0-50 --out first-steps.html

The page shows every rollout with its conversation, its views with boxes where it zoomed, its rewards by part, and its
group with advantages. It filters by zoom, right or wrong, reward, step and source. Keys control it (? lists them). It
loads nothing and runs only its own script, so you can send it to anyone and open it from disk.
"""

# What policies and documents say stays data: it is JSON in a block that browsers do not run, with every `<`, `>` and
# `&` escaped, and the script of the page shows it as text. If that ever failed, the content security policy of the page
# would still block every script except the page's own, which it identifies by hash.

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from vtagent.errors import DataError
from vtagent.training.command_line import clean_exit
from vtagent.training.durable import write_whole
from vtagent.training.rewards import SIGNS
from vtagent.training.rl.log import read_log

Line = dict[str, Any]

_TYPES = {".png": "image/png", ".jpg": "image/jpeg"}
_SCRIPTS = ("base", "log", "filters", "groups", "detail", "main")
_FILE = re.compile(r"views/[0-9a-f]{8,64}\.(?:png|jpg)")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Words of the command line; those of this process if absent.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the log, or of the run that has it in rollouts/")
    parser.add_argument("--steps", help="only these: 10, or 10-20 (default: all)")
    parser.add_argument("--out", type=Path, help="the page (default: rollouts.html in the folder)")
    parser.add_argument("--title", help="what the page is called (default: the folder's name)")
    parser.add_argument(
        "--max-mb", type=float, default=64, help="beyond it, groups are left out evenly (default: %(default)s)"
    )
    with clean_exit(parser):
        _run(parser.parse_args(arguments))


def _run(options: argparse.Namespace) -> None:
    folder = options.folder
    if not any(folder.glob("step-*.jsonl")) and (folder / "rollouts").is_dir():
        folder /= "rollouts"
    steps = _steps(options.steps) if options.steps else None
    title = options.title or f"rollouts of {folder.resolve().parent.name}/{folder.resolve().name}"
    out = options.out or folder / "rollouts.html"
    try:
        page = build_page(folder, read_log(folder, steps=steps), title=title, max_bytes=int(options.max_mb * 1e6))
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, page)
    except OSError as error:
        raise DataError(f"{error.filename}: {error.strerror}") from error
    print(f"{out} ({len(page) / 1e6:.1f} MB)")


def _steps(text: str) -> range:
    """Read "10" or "10-20".

    Raises:
        DataError: Anything else.
    """
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if found is None:
        raise DataError(f"--steps takes a step or a range, such as 10 or 10-20, not {text!r}")
    return range(int(found[1]), int(found[2] or found[1]) + 1)


def build_page(folder: Path, lines: Iterable[Line], *, title: str, max_bytes: int) -> str:
    """Build the page.

    Args:
        folder: The folder of the log, with the images. The page says where one is missing.
        lines: The lines that `read_log` gives.
        title: The title of the page.
        max_bytes: Evenly spaced groups are left out until the page has about this size. The page says so.

    Returns:
        The HTML text.
    """
    groups: dict[tuple[int, int], list[Line]] = {}
    for line in lines:
        groups.setdefault((line["step"], line["group"]), []).append(_shown(line))
    ordered = [groups[key] for key in sorted(groups)]
    kept = _thinned(folder, ordered, max_bytes)
    note = ""
    if len(kept) < len(ordered):
        note = f"{len(kept)} of {len(ordered)} groups, evenly chosen: all would make the page too large."
    rollouts = [line for group in kept for line in group]
    names = {view["file"] for line in rollouts for view in line["views"]}
    data = {"note": note, "rollouts": rollouts, "images": _images(folder, names), "signs": _signs(rollouts)}
    return _filled(_template("page.html"), title=title, data=_as_json(data))


def _signs(rollouts: Iterable[Line]) -> dict[str, int]:
    """Each term of the rewards in the log with its sign; the terms of one's own functions are added."""
    named = [name for line in rollouts for name in line.get("reward") or {}]
    return {**SIGNS, **{name: 1 for name in named if name not in SIGNS and name != "total"}}


def _shown(line: Line) -> Line:
    """The line without token ids: per reply its length and its mean log-probability. Drops unexpected file names."""
    turns = []
    for turn in line.get("turns", ()):
        known = [value for value in turn["logprobs"] if value is not None]
        mean = sum(known) / len(known) if known else None
        turns.append({"tokens": len(turn["completion_ids"]), "logprob": mean, "finish_reason": turn["finish_reason"]})
    views = [{**view, "file": view["file"] if _is_file(view.get("file")) else None} for view in line["views"]]
    return {**line, "turns": turns, "views": views}


def _is_file(name: object) -> bool:
    return isinstance(name, str) and _FILE.fullmatch(name) is not None


def _thinned(folder: Path, groups: Sequence[list[Line]], max_bytes: int) -> Sequence[list[Line]]:
    """Every n-th group, for the smallest n that makes the page small enough; at least one group."""
    sizes = [len(json.dumps(group)) for group in groups]
    shown = [{view["file"] for line in group for view in line["views"] if view["file"]} for group in groups]
    weights = {name: _weight(folder / name) for names in shown for name in names}
    for step in range(1, len(groups)):
        names = set().union(*shown[::step])
        if sum(sizes[::step]) + sum(weights[name] for name in names) <= max_bytes:
            return groups[::step]
    return groups[:1]


def _weight(path: Path) -> int:
    """Bytes that an image takes in the page, as base64."""
    return path.stat().st_size * 4 // 3 if path.exists() else 0


def _images(folder: Path, names: set[str | None]) -> dict[str, dict[str, str]]:
    found = [name for name in names if name is not None and (folder / name).exists()]
    return {
        name: {
            "type": _TYPES[Path(name).suffix],
            "base64": base64.b64encode((folder / name).read_bytes()).decode("ascii"),
        }
        for name in sorted(found)
    }


def _as_json(data: Mapping[str, Any]) -> str:
    """JSON that is safe inside HTML: nothing in it can end its block or begin another one."""
    text = json.dumps(data, separators=(",", ":"))  # ASCII: no character that JavaScript reads as a line end
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _filled(template: str, *, title: str, data: str) -> str:
    style, script = _template("page.css"), "\n".join(_template(f"{name}.js") for name in _SCRIPTS)
    policy = (
        f"default-src 'none'; img-src blob:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {"policy": policy, "title": html.escape(title), "style": style, "script": script, "data": data}
    # In one pass, so that placeholders in the data are not filled in.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _template(name: str) -> str:
    return files("vtagent.training.rl").joinpath("viewer", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


if __name__ == "__main__":
    main()
