"""Make one self-contained HTML page of logged rollouts, to read what a policy did and what it earned.

    python -m vtagent.training.rollouts runs/grpo/rollouts
    python -m vtagent.training.rollouts runs/grpo --steps 0-50 --out first-steps.html

The page shows every rollout with its conversation, its views with boxes where it zoomed, its rewards by part, and its
group with advantages. It filters by zoom, right or wrong, reward, step and source. Keys control it (? lists them). It
loads nothing and runs only its own script, so you can send it to anyone and open it from disk.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from vtagent.errors import DataError, VtagentError
from vtagent.training.durable import write_whole
from vtagent.training.rl.log import read_log
from vtagent.training.rl.page import build_page


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
    options = parser.parse_args(arguments)
    try:
        folder = options.folder
        if not any(folder.glob("step-*.jsonl")) and (folder / "rollouts").is_dir():
            folder /= "rollouts"
        steps = _steps(options.steps) if options.steps else None
        title = options.title or f"rollouts of {folder.resolve().parent.name}/{folder.resolve().name}"
        page = build_page(folder, read_log(folder, steps=steps), title=title, max_bytes=int(options.max_mb * 1e6))
        out = options.out or folder / "rollouts.html"
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, page)
    except VtagentError as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except OSError as error:
        parser.exit(1, f"{parser.prog}: {error.filename}: {error.strerror}\n")
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


if __name__ == "__main__":
    main()
