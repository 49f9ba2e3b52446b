"""Claims of papers, tested in the lab: one file an experiment, one format for what came out."""
