"""A program that looks at a picture, and may be shown a second one."""

import dspy


class Describe(dspy.Signature):
    """Say what is in the picture."""

    question: str = dspy.InputField()
    image: dspy.Image = dspy.InputField()
    other: dspy.Image | None = dspy.InputField(default=None)
    answer: str = dspy.OutputField()


program = dspy.Predict(Describe)
