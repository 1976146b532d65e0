"""Chat with a DSPy program, watch it reason, log it, serve it: ``python app.py --help``."""

from __future__ import annotations

import sys

from dspy_demo.application import main

if __name__ == "__main__":
    sys.exit(main())
