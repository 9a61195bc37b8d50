"""What `make demo` runs: `vtagent ask` on a document in large print and one in small print, which it must zoom on."""

import io
import json
import shlex
import sys
from contextlib import redirect_stdout
from pathlib import Path

from vtagent.cli import run


class Kept(io.StringIO):
    """What is printed, and a copy of it to look at."""

    terminal = sys.stdout

    def isatty(self) -> bool:
        return self.terminal.isatty()

    def write(self, text: str) -> int:
        self.terminal.write(text)
        return super().write(text)


documents = Path(__file__).parent / "documents"
wrong = 0
for line in (documents / "questions.jsonl").read_text(encoding="utf-8").splitlines():
    row = json.loads(line)
    arguments = ["ask", str(documents / row["image"]), row["question"]]
    print(f"\n$ {shlex.join(['vtagent', *arguments])}\n", flush=True)
    with redirect_stdout(Kept()) as kept:
        code = run(arguments)
    if code:
        sys.exit(code)
    right = row["answer"] in kept.getvalue() and ("zoomed" in kept.getvalue()) == (row["print"] == "small")
    wrong += not right
    print(f"\n(gold answer: {row['answer']}{'' if right else '; this run is not as it should be'})")
sys.exit(1 if wrong else 0)
