import dspy


class Chat(dspy.Module):
    """Remembers, as in the conversation-history tutorial, but the parameter has no type."""

    def __init__(self):
        super().__init__()
        self.qa = dspy.ChainOfThought("question, history: dspy.History -> answer")

    def forward(self, question, history=None):
        return self.qa(question=question, history=history or dspy.History(messages=[]))


program = Chat()
