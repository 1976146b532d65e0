"""What a process that runs a version's code finds in its environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dspy_demo.lm.providers import keys_of_others
from dspy_demo.settings import ENV_PREFIX

#: Ours alone: who may use the app, and the key of the app's own model.
_OUR_SECRETS = frozenset(
    ENV_PREFIX + name for name in ("OWNER_TOKEN", "GUEST_TOKEN", "GUEST_PASSWORD", "API_KEY")
)


def version_environment(
    environ: Mapping[str, str], models: Iterable[str], added: Iterable[str] = ()
) -> dict[str, str]:
    """The environment for the load check and the model server: ours, less what the version has no use for.

    Args:
        environ: The app's own environment.
        models: The model strings that the version calls.
        added: Names that are passed on in any case (``--serve-env``), where they are set.
    """
    withheld = (_OUR_SECRETS | keys_of_others(models)) - set(added)
    return {name: value for name, value in environ.items() if name not in withheld}
