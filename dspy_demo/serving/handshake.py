"""What a model server and whoever started it have to agree on."""

from __future__ import annotations

from dspy_demo.settings import ENV_PREFIX

#: Names one very process to whoever started it, so that nothing else on its port is taken for it.
INSTANCE_VARIABLE = f"{ENV_PREFIX}INSTANCE"

# Exit codes.

#: A flag or a variable is wrong (argparse's own code too).
WRONG_USAGE = 2
#: The version cannot be served; the last line on stderr says why.
CANNOT_SERVE = 3
