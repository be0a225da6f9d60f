"""``python -m ancestral COMMAND …``: the command line."""

import sys

from ancestral.cli import main

if __name__ == "__main__":
    sys.exit(main())
