"""Stage ActiveDPO: answer, select, label, train, round by round; every step of every round is found again.

STAGE/rounds/STAGE-01/      training of the first round
STAGE/measured/             differences of selected pairs, and what is measured while a round is selected
STAGE/to-label-01.csv       where people label
STAGE/metrics.jsonl         the learning curve: step is the number of labels spent
"""

import gc
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from rubrica.core.comparisons import Candidate, all_pairs
from rubrica.core.errors import Interrupted, TrainingError
from rubrica.core.prompts import Prompt
from rubrica.core.records import Response, Sampling
from rubrica.core.run import Stage
from rubrica.judges.executor import Executor
from rubrica.recipes.context import Context, Weights
from rubrica.recipes.label_sheet import read_sheet, write_sheet
from rubrica.recipes.ledger import Ledger
from rubrica.recipes.measuring import Measurer
from rubrica.recipes.models import load_chat_format, next_weights, open_generator, training_start
from rubrica.recipes.oracles import judge_oracle
from rubrica.recipes.pairs import train_on_pairs
from rubrica.recipes.sampling import sampled
from rubrica.recipes.selecting import costs, select_round
from rubrica.recipes.stages.active_dpo import ActiveDpo, JudgeLabels
from rubrica.train.gradient_cache import Projection
from rubrica.train.pairs import PairLoss
from rubrica.train.policy import Lora

_SEEDS = 1009
"""Apart are the sampling seeds of two rounds."""


def run_active_dpo(
    context: Context, config: ActiveDpo, stage: Stage, prompts: Sequence[Prompt]
) -> dict[str, object]:
    """Run all rounds, leave the last policy as the stage's and return the summary."""
    asked = config.asked_per_stage
    rounds = _Rounds(context, config, stage, prompts[:asked], prompts[asked:], context.weights)
    rounds.evaluate(0, 0)
    for number in range(1, config.rounds + 1):
        if not rounds.run(number):
            break
    return rounds.finish()


@dataclass
class _Rounds:
    context: Context
    config: ActiveDpo
    stage: Stage
    asked: Sequence[Prompt]
    held_out: Sequence[Prompt]
    weights: Weights
    """The policy as it stands."""
    last: Stage | None = None
    """Training of the last round that had something to train on."""
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start = self.weights
        budget = self.config.rounds * self.config.labels_per_round
        self.ledger = Ledger(self.context.run.store, self.stage.name, budget)
        self.measured = self.stage.path / "measured"

    @cached_property
    def executor(self) -> Executor:
        """What labels and evaluates; a stage that people label, and without held-out prompts, needs none."""
        return self.context.executor("active-dpo")

    def run(self, number: int) -> bool:
        """Do one round, or what is left of it; False where nothing is left to select."""
        training = Stage(self.stage.path / "rounds" / f"{self.stage.name}-{number:02d}")
        if not training.done:
            if not self.ledger.selected(number):
                with self._timed("answering"):
                    pairs = self._candidates(number)
                with self._timed("selecting"):
                    self._select(number, pairs)
            if not self.ledger.selected(number):
                return False
            with self._timed("labelling"):
                self._label(number)
            with self._timed("training"):
                training.finish(self._train(number, training))
        if training.summary().get("pairs"):
            before, self.last = self.last, training
            self.weights = next_weights(replace(self.context, weights=self.start), training)
            if before is not None:
                _let_go(before)
        self.evaluate(number, sum(one.round <= number for one in self.ledger.selected()))
        return True

    def _candidates(self, number: int) -> list[Candidate]:
        """All pairs of the policy's answers to the round's prompts."""
        size = self.config.prompts_per_round
        turn = number if self.config.regenerate else 1
        prompts = list({p.id: p for p in self.asked[(turn - 1) * size : turn * size]}.values())
        found = self._answers(f"answers.{turn}", prompts, self.config.responses, turn)
        pairs = [pair for p in prompts for pair in all_pairs(p, [r.text for r in found[p.id] if r.finished])]
        measurer = self._measurer(number)
        return [pair for pair in pairs if measurer.fits(pair)]

    def _answers(
        self, kind: str, prompts: Sequence[Prompt], count: int, turn: int
    ) -> dict[str, list[Response]]:
        policy = self.context.recipe.policy
        generator = open_generator(self.weights.model, policy.dtype, self.weights.chat_template)
        try:
            return sampled(
                self.context.run.store,
                self.stage.name,
                kind,
                generator,
                prompts,
                count,
                self._sampling(turn),
                partial(self.context.report, "active-dpo: answering"),
            )
        finally:
            del generator
            gc.collect()  # its weights go before others come

    def _sampling(self, turn: int) -> Sampling:
        sampling = self.config.sampling
        shift = (self.context.recipe.seed * (self.config.rounds + 1) + turn) * _SEEDS
        return sampling.model_copy(update={"seed": sampling.seed + shift})

    def _measurer(self, number: int, weights: Weights | None = None) -> Measurer:
        used, options = weights or self.weights, self.config.selection
        return Measurer(
            start=training_start(replace(self.context, weights=used)),
            chat=load_chat_format(used.model, used.chat_template),
            cache=self.measured / f"{number:02d}",
            lora=Lora(**options.lora.model_dump()),
            projection=Projection(options.projection, self.context.recipe.seed),
            batch_size=options.batch_size,
            seed=self.context.recipe.seed,
            report=lambda label, done, total: self.context.report(f"active-dpo: {label}", done, total),
        )

    def _select(self, number: int, pairs: Sequence[Candidate]) -> None:
        options = self.config.selection
        select_round(
            options,
            pairs,
            self.config.labels_per_round,
            self.ledger,
            self.context.run.store,
            stage=self.stage.name,
            number=number,
            folder=self.measured,
            seed=self.context.recipe.seed,
            measurer=None if options.strategy == "random" else self._measurer(number),
            reference=self._measurer(number, self.start) if options.strategy == "aplp" else None,
        )
        shutil.rmtree(self.measured / f"{number:02d}", ignore_errors=True)

    def _label(self, number: int) -> None:
        labels, recipe = self.config.labels, self.context.recipe
        if isinstance(labels, JudgeLabels):
            by = self.context.judge.fingerprint
            self.ledger.ask(judge_oracle(self.executor, by, temperature=labels.noise, seed=recipe.seed))
            return
        path = self.stage.path / f"to-label-{number:02d}.csv"
        chosen = [one.pair for one in self.ledger.selected(number)]
        if not path.exists():
            write_sheet(path, chosen)
        self.ledger.put(read_sheet(path, {pair.id for pair in chosen}))
        if waiting := len(self.ledger.open()):
            raise Interrupted(
                f"{path}: {waiting} pairs wait for a label; fill in first, second, tie or skip in the column label, "
                "save it as CSV, then --resume"
            )

    def _train(self, number: int, training: Stage) -> dict[str, object]:
        every = self.config.train_on == "all"
        pairs = self.ledger.preferences(range(1, number + 1) if every else [number])
        if not pairs:
            return {"pairs": 0}
        lora = self.context.recipe.policy.lora is not None
        ours = {"num_train_epochs": 4, "learning_rate": 1e-4 if lora else 1e-6}
        here = replace(self.context, weights=self.start if every else self.weights)
        return train_on_pairs(
            here,
            training,
            pairs,
            PairLoss(beta=self.config.beta),
            {**ours, **self.config.trainer},
            label=f"active-dpo: round {number}",
            reference=None if every or self.last is None else self.start.model,
        )

    def evaluate(self, number: int, spent: int) -> None:
        """Add a point to the learning curve, unless it is there: how the judge scores answers to held-out prompts."""
        if not self.held_out or spent in {row.step for row in self.stage.metrics()}:
            return
        with self._timed("evaluating"):
            prompts = list({p.id: p for p in self.held_out}.values())
            found = self._answers(f"held-out.{number}", prompts, 1, 0)
            cards = self.executor.score([(prompt, found[prompt.id][0].text) for prompt in prompts])
            totals = [card.total for card in cards if card.total is not None]
            if totals:
                score, count = sum(totals) / len(totals), float(len(totals))
                self.stage.log(spent, {"held_out/score": score, "held_out/n": count})

    def finish(self) -> dict[str, object]:
        """Make the last round's policy the stage's, and sum up."""
        rounds = list(self.ledger.rounds())
        if self.last is None:
            raise TrainingError(
                f"{self.stage.name}: no pair of {sum(r.spent for r in rounds)} selected ones got a preference; "
                "use another judge, or prompts whose answers differ"
            )
        for name in ("adapter", "model"):
            if (made := self.last.path / name).exists():
                shutil.rmtree(self.stage.path / name, ignore_errors=True)
                made.rename(self.stage.path / name)
        curve = {str(row.step): row.metrics.get("held_out/score") for row in self.stage.metrics()}
        return {
            "rounds": [round.model_dump() for round in rounds],
            "labels": sum(round.spent for round in rounds),
            "preferences": sum(round.labelled for round in rounds),
            "strategy": self.config.selection.strategy,
            "costs": [cost.model_dump() for cost in costs(self.context.run.store, self.stage.name)],
            "curve": curve,
            "seconds_by_step": {name: round(spent, 1) for name, spent in self.seconds.items()},
        }

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.monotonic() - started


def _let_go(training: Stage) -> None:
    """Delete the weights of a round that another has followed."""
    for name in ("model", "adapter", "checkpoints"):
        folder: Path = training.path / name
        shutil.rmtree(folder, ignore_errors=True)
