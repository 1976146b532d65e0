import dspy


class Drafted(dspy.Module):
    """Writes the answer from a draft; the answering step is declared first."""

    def __init__(self):
        super().__init__()
        self.respond = dspy.Predict("question, draft -> answer")
        self.sketch = dspy.Predict("question -> draft")

    async def aforward(self, question: str):
        d = await self.sketch.acall(question=question)
        return await self.respond.acall(question=question, draft=d.draft)


program = Drafted()
