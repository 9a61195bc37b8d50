"""Runs `vtagent ask` on a document that the model answers at once, and on one that it must zoom on.

Run it from the repository's root; what the model was shown is saved below runs/demo:

    make demo
"""

import io
import json
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path

from vtagent.cli import run


class Tee(io.StringIO):
    """Prints text on stdout and keeps a copy."""

    terminal = sys.stdout

    def isatty(self) -> bool:
        """Returns whether stdout is a terminal, so that the output is styled as usual."""
        return self.terminal.isatty()

    def write(self, text: str) -> int:
        """Prints and keeps `text`."""
        self.terminal.write(text)
        return super().write(text)


documents = Path(__file__).parent / "documents"
wrong = 0
for line in (documents / "questions.jsonl").read_text(encoding="utf-8").splitlines():
    row = json.loads(line)
    seen = Path("runs", "demo", Path(row["image"]).stem)
    arguments = ["ask", str(documents / row["image"]), row["question"], "--save-views", str(seen)]
    print(f"\n$ {shlex.join(['vtagent', *arguments])}\n", flush=True)
    with redirect_stdout(Tee()) as printed:
        code = run(arguments)
    if code:
        sys.exit(code)
    said = printed.getvalue()
    zoomed = row["zoom"] is not None  # else "all of the image" or "region", which is what the command prints
    right = row["answer"] in said and ("zoomed" in said) == zoomed and (not zoomed or f"on {row['zoom']}" in said)
    wrong += not right
    print(f"\nThe model was shown: {', '.join(map(str, sorted(seen.glob('*.png'))))}")
    print(f"\n(gold answer: {row['answer']}{'' if right else '; this run is not as it should be'})")
sys.exit(1 if wrong else 0)
