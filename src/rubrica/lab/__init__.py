"""The laboratory: a small world with ground truth, three small models, an oracle."""
