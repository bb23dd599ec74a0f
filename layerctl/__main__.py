"""`python -m layerctl`."""

from __future__ import annotations

import sys

from layerctl.cli import main

if __name__ == "__main__":
    sys.exit(main())
