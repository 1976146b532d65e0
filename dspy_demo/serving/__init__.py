"""Servers as processes of their own: the model server, and MLflow's pages."""
