"""Benchmarks that a user can run: ratios within one run on one machine, never absolute claims."""
