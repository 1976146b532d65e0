import dspy


def short(args, pred):
    return 1.0 if len(pred.answer) < 500 else 0.0


program = dspy.BestOfN(module=dspy.ChainOfThought("question -> answer"), N=2, reward_fn=short, threshold=1.0)
