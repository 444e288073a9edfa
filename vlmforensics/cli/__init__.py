"""The command line: ``vlmforensics examine | batch | chat | ui | report | models | doctor | …``.

Exit codes: 0 done, 1 some input or model failed, 2 usage, 130 interrupted. A verdict is never an exit code.
Heavy imports happen inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys

from vlmforensics.cli.commands import app

__all__ = ["app", "main", "main_ui"]


def main() -> None:
    """Entry point of ``vlmforensics``."""
    app(prog_name="vlmforensics")


def main_ui() -> None:
    """Entry point of ``vlmforensics-ui``: the same as ``vlmforensics ui``."""
    app(["ui", *sys.argv[1:]], prog_name="vlmforensics")


if __name__ == "__main__":
    main()
