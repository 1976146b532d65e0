import dspy
import pydantic
from helpers import clean  # noqa: F401


class Item(pydantic.BaseModel):
    name: str
    age: int


class Ask(dspy.Signature):
    """Answer from the notes."""

    notes: list[str] = dspy.InputField()
    question: str = dspy.InputField()
    person: Item = dspy.OutputField()
    answer: str = dspy.OutputField()
