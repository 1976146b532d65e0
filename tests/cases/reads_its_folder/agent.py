"""A program with data and optimised state beside its source, and modules of its own."""

import json
from pathlib import Path

import dspy
from helpers import clean
from lib.sigs import Ask

DATA = Path(__file__).parent / "data"
NOTES = json.loads((DATA / "notes.json").read_text())


class Notes(dspy.Module):
    """Answers from a file beside it."""

    def __init__(self):
        super().__init__()
        self.ask = dspy.Predict(Ask)
        self.think = dspy.ChainOfThought("question -> answer")
        self.think.load(str(DATA / "opt.json"))

    def forward(self, question: str) -> dspy.Prediction:
        thought = self.think(question=question)
        found = self.ask(notes=NOTES, question=clean(thought.answer))
        return dspy.Prediction(answer=found.answer, person=found.person)


program = Notes()
