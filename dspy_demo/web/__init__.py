"""The HTTP server and its doors: who asks, what they may ask, what an answer carries."""
