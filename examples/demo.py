"""What `make demo` runs: `vtagent ask` on a document in large print and one in small print, with the gold answers."""

import json
import shlex
import sys
from pathlib import Path

from vtagent.cli import run

documents = Path(__file__).parent / "documents"
for line in (documents / "questions.jsonl").read_text(encoding="utf-8").splitlines():
    row = json.loads(line)
    arguments = ["ask", str(documents / row["image"]), row["question"]]
    print(f"\n$ {shlex.join(['vtagent', *arguments])}\n", flush=True)
    if code := run(arguments):
        sys.exit(code)
    print(f"\n(gold answer: {row['answer']})")
