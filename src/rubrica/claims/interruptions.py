"""Interruptions (arXiv 2511.12782): does a rule hold as the context grows, and how many examples would it take instead?

The paper is a concept and has no experiment, so the experiments are ours. The lab's starter learns to keep a rule, *begin
with this word*, in contexts of at most 96 tokens. Then the rule is buried under up to 768 tokens of other text: alone, as
a system prompt, or with the same sentence once in 64 tokens. The other half starts from a model that keeps the rule under 16
tokens, and counts how many different examples of a longer context it takes until it is kept there too.

One trial went before: with 40 updates of 8 lessons instead of 60 of 16, 256 different lessons were seen but once each.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rubrica.claims.experiment import Experiment
from rubrica.claims.finding import Claim, Detail, Effect
from rubrica.claims.workshop import Bench
from rubrica.core.config import Json

if TYPE_CHECKING:
    from rubrica.core.run import Stage
    from rubrica.recipes.interrupt_ab import AbReport

PAPER = "LLM Reinforcement in Context (2511.12782)"
NOBODY = (
    "nobody in training; neither judge nor oracle in evaluation: an answer begins with the word or does not, "
    "which a pattern sees"
)
EVERY, SLACK = 64, 8
SHORT, SHORTER = 96, 16
MARGIN = 0.05
"""What *holds* allows to be lost between the shortest and the longest context; set before any seed was run."""
KEPT = 0.9
"""Share of kept rules from which a number of examples is enough; set before any seed was run."""
LESSONS = {"updates": 60, "batch": 16}
RATE = 5e-4


@dataclass(frozen=True)
class Sizes:
    """How much is trained and measured."""

    prompts: int
    lengths: tuple[int, ...]
    """Tokens of other text; shortest and longest are compared."""
    contexts: tuple[int, int, int]
    """Lengths for which examples are counted, each twice the one before."""
    examples: tuple[int, ...]
    """Numbers of different examples that are tried."""


FULL = Sizes(96, (64, 128, 256, 512, 768), (64, 128, 256), (4, 16, 64, 256))
QUICK = Sizes(48, (64, 768), (64, 128, 256), (4, 32, 256))


def sizes(bench: Bench) -> Sizes:
    """Return the sizes of the table, or smaller ones."""
    return QUICK if bench.quick else FULL


def obedient(bench: Bench, longest: int) -> Path:
    """Return a model that learnt to keep the rule under at most ``longest`` tokens of other text."""

    def make(stage: "Stage") -> Mapping[str, object]:
        from rubrica.lab.obedience import UPDATES, teach_obedience

        def show(done: int, total: int, loss: float) -> None:
            bench.report(f"keeping a rule under {longest} tokens", done, total)

        teach_obedience(stage.model_dir, longest=longest, seed=bench.seed, progress=show)
        return {"updates": UPDATES}

    return bench.stage("obedient", {"longest": longest, "seed": bench.seed}, make).model_dir


def kept(bench: Bench, model: Path, lengths: Sequence[int]) -> "AbReport":
    """Return how often each arm keeps the rule at each length."""
    from rubrica.core.records import Sampling
    from rubrica.core.store import Store
    from rubrica.lab.obedience import EXPECT, RULE, filler, questions
    from rubrica.methods.interruptions import Schedule
    from rubrica.recipes import interrupt_ab as harness
    from rubrica.recipes.interrupt_subject import open_subject
    from rubrica.recipes.interruptions import InterruptedModel

    plan = InterruptedModel(controls=(RULE,), input=Schedule(every=EVERY, slack=SLACK), fence=False)
    prompts, text = questions("test", sizes(bench).prompts, bench.seed), filler(bench.seed + 1)
    settings = harness.Settings(
        model="obedient",
        rule=RULE,
        plan=plan,
        lengths=tuple(lengths),
        check=EXPECT,
        prompts=harness.hash_of(prompts),
        filler=harness.hash_of_text(text),
        sampling=Sampling(temperature=0.0, max_tokens=4),
    )
    subject = open_subject(str(model), plan, batch_size=16)
    with Store(":memory:") as store:
        value = harness.expecting(EXPECT)
        return harness.measure(settings, subject, prompts, text, store, value, bench.report)


def under_the_rule(bench: Bench, model: Path, length: int) -> float:
    """Return how often a rule in the system prompt is kept at one length."""
    from rubrica.core.records import Sampling
    from rubrica.lab.obedience import EXPECT, RULE, filler, questions
    from rubrica.recipes.interrupt_ab import contexts, expecting, under_rule
    from rubrica.recipes.interrupt_subject import open_subject
    from rubrica.recipes.interruptions import InterruptedModel

    subject = open_subject(str(model), InterruptedModel(controls=(RULE,), fence=False), batch_size=16)
    prompts = questions("test", sizes(bench).prompts, bench.seed)
    buried = contexts(prompts, filler(bench.seed + 1), subject.pieces, length, "text")
    asked = [under_rule(prompt, RULE) for prompt in buried]
    sampling, value = Sampling(temperature=0.0, max_tokens=4), expecting(EXPECT)
    found = [value(asked[index], answer.text) for index, answer in subject.plain.generate(asked, sampling)]
    return sum(found) / len(found)


def rates(report: "AbReport") -> dict[str, float]:
    """Return the shares of kept rules, by arm and length."""
    return {
        f"{cell.arm}.{cell.length}": cell.value.value for cell in report.cells if cell.value.value is not None
    }


# --- does it hold? --------------------------------------------------------------------------------

_CONTEXTS = (
    f"The lab's starter learns to begin its answer with a word that a rule names, under 0 to {SHORT} tokens of other text; "
    f"{FULL.prompts} held-out requests behind {FULL.lengths[0]} to {FULL.lengths[-1]} tokens; interruptions repeat the "
    f"rule every {EVERY} tokens, slack {SLACK}"
)
DECAY = Claim(
    id="interruptions.length.decay",
    claim="A rule that stands in the system prompt alone is kept less often as the context grows",
    paper=PAPER,
    experiment=_CONTEXTS,
    effect=f"share kept with the system prompt only, at {FULL.lengths[0]} tokens less at {FULL.lengths[-1]}",
    judge=NOBODY,
)
GAIN = Claim(
    id="interruptions.length.gain",
    claim="In the longest context a rule that interruptions repeat is kept more often than one in the system prompt alone",
    paper=PAPER,
    experiment=_CONTEXTS,
    effect=f"share kept at {FULL.lengths[-1]} tokens, with interruptions less with the system prompt only",
    judge=NOBODY,
)
HOLD = Claim(
    id="interruptions.length.hold",
    claim="With interruptions a rule is kept as often in the longest context as in the shortest",
    paper=PAPER,
    experiment=_CONTEXTS,
    effect=f"share kept with interruptions, at {FULL.lengths[-1]} tokens less at {FULL.lengths[0]}, plus a margin of "
    f"{MARGIN:g}",
    judge=NOBODY,
)


def over_length(bench: Bench) -> dict[str, Effect]:
    """Measure the three arms over the length."""
    lengths = sizes(bench).lengths
    model = obedient(bench, SHORT)
    key: dict[str, Json] = {"seed": bench.seed, "lengths": list(lengths), "prompts": sizes(bench).prompts}
    found = bench.kept("over-length", key, dict[str, float], lambda: rates(kept(bench, model, lengths)))
    short, long = lengths[0], lengths[-1]
    return {
        DECAY.id: Effect(value=found[f"system.{short}"] - found[f"system.{long}"], details=dict(found)),
        GAIN.id: Effect(value=found[f"interruptions.{long}"] - found[f"system.{long}"]),
        HOLD.id: Effect(
            value=found[f"interruptions.{long}"] - found[f"interruptions.{short}"] + MARGIN,
        ),
    }


# --- how many examples? ---------------------------------------------------------------------------

_LESSONS = (
    f"A model that keeps the rule under at most {SHORTER} tokens goes on with N = {', '.join(map(str, FULL.examples))} "
    f"different examples of {', '.join(map(str, FULL.contexts))} tokens ({LESSONS['updates']} updates of "
    f"{LESSONS['batch']}, learning rate {RATE:g}); needed is the N from which {KEPT:.0%} of {FULL.prompts} held-out rules "
    "are kept, between two N by their logarithms, above the largest four times that"
)
GROW = Claim(
    id="interruptions.examples.grow",
    claim="A longer context needs more training examples until a rule is kept in it",
    paper=PAPER,
    experiment=_LESSONS,
    effect=f"ln N at {FULL.contexts[-1]} tokens less ln N at {FULL.contexts[0]}",
    judge=NOBODY,
)
EXPONENTIAL = Claim(
    id="interruptions.examples.exponential",
    claim="The examples needed grow exponentially with the context, Omega(k^l), rather than as a power of its length",
    paper=PAPER,
    experiment=_LESSONS,
    effect="growth of ln N over the second doubling of the length, less 1.5 times that over the first: exponential growth "
    "would make it twice as large, a power as large",
    judge=NOBODY,
)


def needed(curve: Mapping[int, float]) -> float:
    """Return the number of examples from which :data:`KEPT` is reached; ``curve``: share kept by number, 0 among them.

    No examples count as half of the smallest number, never reached as four times the largest.
    """
    numbers = sorted(curve)
    before = numbers[1] / 2
    if curve[0] >= KEPT:
        return before
    share = curve[0]
    for number in numbers[1:]:
        if curve[number] >= KEPT:
            part = (KEPT - share) / (curve[number] - share)
            return math.exp(math.log(before) + part * (math.log(number) - math.log(before)))
        before, share = float(number), curve[number]
    return 4.0 * numbers[-1]


def taught(bench: Bench, model: Path, length: int, examples: int) -> float:
    """Return the share of kept rules after ``examples`` different lessons of ``length`` tokens."""

    def make() -> float:
        from rubrica.lab.obedience import rows, teach

        with TemporaryDirectory() as folder:
            out = model
            if examples:
                out = Path(folder) / "model"
                teach(
                    model,
                    out,
                    lambda tokenizer: rows(
                        tokenizer,
                        longest=length,
                        shortest=length,
                        where=("nowhere", "system", "system", "system"),
                        pool=examples,
                        seed=bench.seed,
                    ),
                    learning_rate=RATE,
                    seed=bench.seed,
                    progress=lambda a, b, loss: bench.report(f"{examples} examples of {length} tokens", a, b),
                    **LESSONS,
                )
            return under_the_rule(bench, out, length)

    key: dict[str, Json] = {"seed": bench.seed, "length": length, "examples": examples, "rate": RATE}
    return bench.kept("taught", key | {"prompts": sizes(bench).prompts, **LESSONS}, float, make)


def by_examples(bench: Bench) -> dict[str, Effect]:
    """Count the examples that each length needs, beside what the formula would say."""
    from rubrica.methods.context_ratio import implied_branching

    size, model = sizes(bench), obedient(bench, SHORTER)
    details: dict[str, Detail] = {}
    found: list[float] = []
    for length in size.contexts:
        curve = {number: taught(bench, model, length, number) for number in (0, *size.examples)}
        details |= {f"kept.{length}.{number}": share for number, share in curve.items()}
        found.append(needed(curve))
        details[f"needed.{length}"] = found[-1]
    first, second, third = map(math.log, found)
    details["k"] = implied_branching(size.contexts, found)
    return {
        GROW.id: Effect(value=third - first, details=details),
        EXPONENTIAL.id: Effect(value=(third - second) - 1.5 * (second - first)),
    }


EXPERIMENTS = (
    Experiment("interruptions.length", (DECAY, GAIN, HOLD), over_length),
    Experiment("interruptions.examples", (GROW, EXPONENTIAL), by_examples),
)
