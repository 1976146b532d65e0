"""Servers as processes of their own: the model server, and MLflow's pages."""

from dspy_demo.settings import ENV_PREFIX

#: Gives a model server's process a random name, which it says in every reply: nothing else is taken for it.
INSTANCE_VARIABLE = f"{ENV_PREFIX}INSTANCE"
#: Its exit code where it cannot serve, with the reason as the last line of its log; argparse's own, too.
CANNOT_SERVE = 2
