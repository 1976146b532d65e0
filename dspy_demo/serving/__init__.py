"""Servers as processes of their own: the model server, and MLflow's pages."""

from dspy_demo.settings import ENV_PREFIX

#: Gives a model server's process a random name, which it says in every reply: nothing else is taken for it.
INSTANCE_VARIABLE = f"{ENV_PREFIX}INSTANCE"
#: Exit codes: a flag or variable is wrong (argparse's own code); the version cannot be served.
WRONG_USAGE, CANNOT_SERVE = 2, 3
