"""What guests may use, and how much of it. The owner is free of all of this."""
