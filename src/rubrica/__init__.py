"""Rubrica: align language models to a constitution that people can read."""

__version__ = "0.1.0"
