"""Whatever can run a turn: in this process, behind a model server, or from a script."""
