"""Seconds of a warm ``log_model`` as in DSPy's tutorial: signature and requirements are inferred."""

import statistics
import sys
import time

import dspy
import mlflow

url, folder, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
mlflow.set_tracking_uri(f"sqlite:///{folder}/tutorial.db")
mlflow.set_experiment(
    experiment_id=mlflow.create_experiment("tutorial", artifact_location=f"{folder}/tutorial")
)
program = dspy.ChainOfThought("question -> answer")
taken_s = []
with dspy.context(lm=dspy.LM("openai/fake", api_base=url, api_key="none", cache=False)):
    for _ in range(rounds):
        started = time.perf_counter()
        with mlflow.start_run():
            mlflow.dspy.log_model(
                program,
                name="tutorial",
                input_example={"question": "What is 2 + 2?"},
                registered_model_name="tutorial",
            )
        taken_s.append(time.perf_counter() - started)
print(statistics.median(taken_s))
