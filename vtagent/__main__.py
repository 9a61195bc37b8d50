"""The command `vtagent`: the CLI, or one line on what it needs."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of this process and exit."""
    try:
        from vtagent.cli import run
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        sys.exit("vtagent: error: the command line needs an extra: pip install 'vtagent[cli]'")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
