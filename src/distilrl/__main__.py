"""``python -m distilrl``."""

import sys

try:
    from distilrl.cli import main

    sys.exit(main())
except KeyboardInterrupt:  # before `main` could answer it
    sys.stderr.write("interrupted\n")
    sys.exit(130)
