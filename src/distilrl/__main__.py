"""``python -m distilrl``."""

import sys

from distilrl.cli import main

sys.exit(main())
