"""The app, but what can be downloaded are the models of a JSON file: those of a test's own hub."""

import json
import sys
from pathlib import Path

from dspy_demo import application
from dspy_demo.lm.local import files

if __name__ == "__main__":
    models = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    files.KNOWN = tuple(files.KnownModel(**model) for model in models)
    sys.exit(application.main(sys.argv[2:]))
