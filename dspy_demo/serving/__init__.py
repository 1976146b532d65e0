"""Servers as processes of their own: the model server, and MLflow's pages."""

from dspy_demo.settings import ENV_PREFIX

#: The variable that gives a model server's process a random name, which it says in every reply: nothing else
#: on its port is taken for it.
INSTANCE_VARIABLE = f"{ENV_PREFIX}INSTANCE"
#: Exit codes of a model server: a flag or a variable is wrong (argparse's own code too); the version cannot
#: be served. The last line on stderr says why.
WRONG_USAGE, CANNOT_SERVE = 2, 3
