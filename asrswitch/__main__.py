"""``python -m asrswitch``."""

import sys

from asrswitch.cli import main

if __name__ == "__main__":
    sys.exit(main())
