"""Runs `vtagent ask` on a document in large print, and on one in small print that the model must zoom on.

Run it from the repository's root:

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
    arguments = ["ask", str(documents / row["image"]), row["question"]]
    print(f"\n$ {shlex.join(['vtagent', *arguments])}\n", flush=True)
    with redirect_stdout(Tee()) as printed:
        code = run(arguments)
    if code:
        sys.exit(code)
    right = row["answer"] in printed.getvalue() and ("zoomed" in printed.getvalue()) == (row["print"] == "small")
    wrong += not right
    print(f"\n(gold answer: {row['answer']}{'' if right else '; this run is not as it should be'})")
sys.exit(1 if wrong else 0)
