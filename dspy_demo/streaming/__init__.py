"""From a running program to events: the stream of its turn, what it observes of DSPy, what it reads."""
