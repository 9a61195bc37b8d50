"""Runs the command `vtagent`, or says which extra it needs."""

from __future__ import annotations

import sys

from vtagent.extras import missing_extra


def main() -> None:
    """Runs the command line of this process and exits with its exit code."""
    try:
        from vtagent.cli import run
    except ModuleNotFoundError as error:
        if (needed := missing_extra(error)) is None:
            raise
        print(f"vtagent: error: {needed}", file=sys.stderr)
        sys.exit(3)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
