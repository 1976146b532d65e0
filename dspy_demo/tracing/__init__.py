"""One MLflow trace per turn, written beside the chat: nothing on the event loop ever waits for MLflow.

A turn fills in a `record`, without MLflow; a `tracer` takes it, and writes its `spans` from a thread.
"""
