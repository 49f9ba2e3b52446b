"""All experiments, in the order of the table. Add yours here."""

from rubrica.claims import active_dpo, data_map, interruptions, irft, qa_lign, spa, transfer_q
from rubrica.claims.experiment import Experiment

EXPERIMENTS: tuple[Experiment, ...] = (
    *qa_lign.EXPERIMENTS,
    *irft.EXPERIMENTS,
    *spa.EXPERIMENTS,
    active_dpo.EXPERIMENT,
    *data_map.EXPERIMENTS,
    transfer_q.EXPERIMENT,
    *interruptions.EXPERIMENTS,
)
