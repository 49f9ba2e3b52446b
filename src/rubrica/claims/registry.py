"""All experiments, in the order of the table. Add yours here."""

from rubrica.claims.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = ()
