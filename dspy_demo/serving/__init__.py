"""Servers as processes of their own: the model server, and the owner of any child process."""
