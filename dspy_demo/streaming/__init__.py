"""From a running program to events: the task that owns the stream, the splitter, the turn."""
