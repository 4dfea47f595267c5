"""``python -m asrswitch``."""

import sys


def run() -> int:
    """Run the command; its imports take a while, and Ctrl-C is answered in them too."""
    try:
        from asrswitch.cli import main
    except KeyboardInterrupt:
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(run())
