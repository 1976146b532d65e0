"""What the owner lets guests use: programs and models, on both backends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from dspy_demo.errors import Forbidden, SettingsError
from dspy_demo.events import LMChoice, LocalTarget, TurnRequest
from dspy_demo.lm.choices import Detection, LMOption
from dspy_demo.programs.spec import ProgramSpec
from dspy_demo.settings import Settings


class Allowance:
    """Checked for each turn, whatever way it came; `served_urls` gives where a guest's may be served now."""

    def __init__(
        self,
        settings: Settings,
        programs: Iterable[ProgramSpec],
        detection: Detection,
        served_urls: Callable[[], set[str]] = set,
    ) -> None:
        names = tuple(spec.name for spec in programs)
        self.programs = settings.guest_programs or names
        _check_names("--guest-programs", self.programs, names)
        self.detection = _for_guests(settings, detection)
        self._models = {(option.model, option.api_base) for option in self.detection.options}
        self._choice = detection.choice
        self._served_urls = served_urls

    def programs_of(self, specs: Iterable[ProgramSpec]) -> list[ProgramSpec]:
        return [spec for spec in specs if spec.name in self.programs]

    def choice(self, owners: LMChoice) -> LMChoice:
        """The model of a guest's turn that names none: the owner's, or what a guest may use instead."""
        return owners if self._is_offered(owners) else self.detection.choice

    def check(self, request: TurnRequest) -> None:
        """Let a turn pass; `Forbidden` where it asks for what is not for guests."""
        target = request.target
        if request.visitor.role == "owner":
            return
        if not isinstance(target, LocalTarget):
            if target.url not in self._served_urls():
                raise Forbidden("This served version is not open to guests. Choose the Local backend.")
        elif target.program not in self.programs:
            raise Forbidden("This program is not open to guests. Choose another one under Program.")
        elif not self._is_offered(target.lm):
            raise Forbidden("This model is not open to guests. Choose another one under Model.")

    def _is_offered(self, lm: LMChoice) -> bool:
        return (lm.model, lm.api_base) in self._models and lm.api_key in {None, self._choice.api_key}


def _for_guests(settings: Settings, detection: Detection) -> Detection:
    """The same detection as a guest may know it: the models allowed, no word of keys or addresses."""
    start = detection.choice
    found = {option.model: option for option in reversed(detection.options)}  # the first of a name
    models = settings.guest_models or (start.model,)
    _check_names("--guest-models", models, found)
    options = tuple(LMOption(m, found[m].title, api_base=found[m].api_base) for m in models)
    if start.model not in models:
        start = replace(start, model=models[0], api_base=found[models[0]].api_base, api_key=None)
    return Detection(start, "", options)


def _check_names(flag: str, named: Iterable[str], known: Iterable[str]) -> None:
    for name in named:
        if name not in known:
            raise SettingsError(f"{flag}: there is no “{name}” here. Choose of: {', '.join(known)}.")
