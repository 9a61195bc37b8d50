"""The longer help texts of the command line: overviews, examples, exit codes."""

EXIT_CODES = """\
exit codes:
  0    success
  1    a bug in vtagent
  2    a wrong option, file or image
  3    an extra is not installed
  4    the model or the server failed
  130  interrupted
  141  the output pipe was closed
"""

OVERVIEW = """\
Ask questions about images, and see how many visual tokens each answer costs.

The model first sees every image at half of both sides, for a quarter of the
visual tokens. It then answers, or calls the tool `zoom_image` to see the whole
image or a region of it at full resolution.
"""

TOP = "`vtagent COMMAND --help` shows examples and the options of a command.\n"

ASK = """\
examples:
  vtagent ask receipt.png "What is the Total?"

  # Two images, and a model that is downloaded from the hub the first time
  vtagent ask front.jpg back.jpg "Who signed?" --model Qwen/Qwen3-VL-2B-Instruct

  # A model on a server: vLLM, or any other OpenAI-compatible server
  vtagent ask receipt.png "Who paid?" --base-url http://localhost:8000/v1

  # Answer without zooming, or zoom up to three times
  vtagent ask receipt.png "What is the Tax?" --max-zooms 0
  vtagent ask receipt.png "What is the Tax?" --max-zooms 3

  # Zoom more often (with a negative number: less often)
  vtagent ask receipt.png "What is the Tax?" --zoom-bias 2

  # Save the exact pixels that the model saw
  vtagent ask receipt.png "What is the Tax?" --save-views seen/

  # Print one JSON object, for scripts
  vtagent ask receipt.png "What is the Tax?" --json

The bundled policies, base and zoom, read only the documents that `vtagent
samples` draws: small printed cards, forms and receipts. Use a real model for
any other image.
"""

DOCQA = """\
examples:
  vtagent docqa report.pdf "How long does the warranty last?"

  # A folder of scans that have no text: OCR finds the page
  vtagent docqa scans/ "What is the Total?" --ocr auto

  # Some pages only, and pictures of the cited pages with boxes
  vtagent docqa report.pdf "Who signed?" --page 3-7 --save-evidence places/

  # Many questions; the same command goes on where it was stopped
  vtagent docqa report.pdf --batch questions.jsonl --out answers.jsonl

The bundled policies read only the documents that vtagent draws. Use a real
model for any other document.
"""

SAMPLES = """\
examples:
  # 16 documents, half in large print, half in small
  vtagent samples documents/

  # Small print, which a model can read only after zooming
  vtagent samples small-print/ --count 200 --print small

  # The same seed draws the same documents on every machine
  vtagent samples documents-7/ --seed 7

DIR gets one PNG per document, and questions.jsonl with one line for each:
  {"image": "0000-large.png", "question": "What is the Total?",
   "answer": "48.10", "print": "large"}
"""

CHAT = """\
examples:
  vtagent chat receipt.png --thread trip

  # Continue tomorrow, with another image
  vtagent chat --thread trip
  › What was the total?
  › /image second.png
  › And here?
  › /quit

  # From a script: one question per line in, one JSON object per line out
  printf 'What is the Total?\\n' | vtagent chat receipt.png --thread t1 --json

Lines that begin with a slash and a word are commands: /image PATH, /quit.
Conversations are kept in ~/.local/state/vtagent (see --state). If a run is
killed, the next `vtagent chat` of its thread finishes it first. `vtagent
forget` deletes a conversation.
"""

FORGET = """\
examples:
  vtagent forget trip

  # Delete its images even if they are new and another chat is under way
  vtagent forget trip --grace 0

Images that another conversation shows stay. While a chat is under way, so do
those of the last hour; repeat the command when it has ended.
"""

MODELS = """\
examples:
  # Every known family of models: what a photograph costs whole and low, and how a box is written
  vtagent models

  # Everything that is known of one, with its sources
  vtagent models gpt-4o
  vtagent models anthropic:claude-opus-4-7 --json

D: the vendor's documentation. S: source code. M: measured by users.
?: third party only, or assumed.
"""

SAVINGS = """\
examples:
  # What every known model bills for these images: whole, as low views, with a zoom
  vtagent savings receipt.png photo.jpg

  # Every page of a PDF, as if each were an image
  vtagent savings report.pdf

  # Two models only, as JSON
  vtagent savings receipt.png --for claude --for gpt-4o --json

  # The same as a figure (needs the extra samples)
  vtagent savings receipt.png --figure savings.png

No model is called and no key is needed: the providers' own rules are applied to
the sizes of the images. `vtagent models NAME` shows a rule and its sources.
"""

MCP = """\
examples:
  # For an agent that starts the server itself; it may read one folder
  vtagent mcp --root ~/Documents/scans --for claude

  # Over HTTP, on this machine only
  vtagent mcp --root scans --http 8765

  # With the tool ask: another model answers questions, so the agent need not see the images
  vtagent mcp --root scans --model Qwen/Qwen3-VL-2B-Instruct

Only files below a --root are read, and nothing is written. --for says how the
agent's model sees: what an image costs it, and how it writes a box.
"""
