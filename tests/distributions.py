"""A copy of what the repository would hold, and a fresh interpreter: what tests of the distributions build with."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_python(*arguments: str, cwd: Path = ROOT, seconds: float = 240, **environment: str) -> str:
    """What a fresh interpreter printed; fails with all its output, or after so many seconds."""
    command, known = [sys.executable, *arguments], {**os.environ, **environment}
    done = subprocess.run(command, cwd=cwd, env=known, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copy_repository(to: Path) -> Path:
    """Copies the files that the repository holds or would hold, without what git ignores, and returns the folder."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if os.path.lexists(ROOT / name):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name, follow_symlinks=False)
    return to
