"""Runs the command `vtagent`, or says which extra it needs."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line of this process and exits with its exit code."""
    try:
        from vtagent.cli import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        sys.exit("vtagent: error: the command line needs an extra: pip install 'vtagent[cli]'")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
