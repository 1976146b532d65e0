"""``python app.py``, but what can be downloaded are the models of a JSON file: those of a test's own hub.

python tests/app_with_tiny_model.py models.json --hub-url http://127.0.0.1:9000 --port 7860
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dspy_demo import application
from dspy_demo.lm.local import files


def main() -> int:
    models = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    files.KNOWN = tuple(files.KnownModel(**model) for model in models)
    return application.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
