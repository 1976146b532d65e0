"""Who asks, and what they may do: the owner by a link or a token, everybody else as a guest."""
