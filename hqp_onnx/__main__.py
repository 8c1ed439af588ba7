"""``hqp``, and ``python -m hqp_onnx``."""

from __future__ import annotations

import sys


def main() -> None:
    """Load the command line and run it; Ctrl-C meanwhile is one line, too."""
    try:
        from hqp_onnx.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
