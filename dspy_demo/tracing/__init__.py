"""One MLflow trace per turn, written beside the chat: nothing on the event loop ever waits for MLflow."""
