import dspy


class Sub(dspy.Module):
    """Calls a submodule inside gather: two answers at once from one predictor."""

    def __init__(self):
        super().__init__()
        self.p = dspy.Predict("question -> answer")

    async def aforward(self, question: str):
        import asyncio

        a, b = await asyncio.gather(
            self.p.acall(question=question + " first"), self.p.acall(question=question + " second")
        )
        return dspy.Prediction(answer=a.answer + " / " + b.answer)


program = Sub()
