"""``python -m graft`` is the same command as ``graft``."""

import sys

from graft.cli import main

if __name__ == "__main__":
    sys.exit(main())
