"""Joins models, judges, methods and training to a run."""
