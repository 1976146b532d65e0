"""One MLflow trace per turn, written beside the chat: nothing on the event loop ever waits for MLflow.

- `record`: what happened in a turn, as plain values. A turn fills it in, a tracer takes it.
- `base`: what the chat knows of a tracer, and the one that does nothing.
- `tracer`: `MlflowTracer`, a queue and one thread.
- `store`: writes records as MLflow traces, ratings as assessments; `spans` says what goes where. MLflow is
  imported in the functions of these two only.

`chat` and `streaming` import `base` and `record` only, so this package exports nothing itself.
"""
