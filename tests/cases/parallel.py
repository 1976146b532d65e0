import dspy


class Fan(dspy.Module):
    """Asks three at once, then joins."""

    def __init__(self):
        super().__init__()
        self.one = dspy.Predict("question -> draft")
        self.join = dspy.Predict("question, drafts -> answer")

    def forward(self, question: str):
        par = dspy.Parallel(num_threads=3, disable_progress_bar=True)
        ds = par([(self.one, {"question": question + f" {i}"}) for i in range(3)])
        return self.join(question=question, drafts="; ".join(d.draft for d in ds))


program = Fan()
