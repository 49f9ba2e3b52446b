"""Stage reward-model: preference pairs, a scalar reward model by Bradley-Terry, and its accuracy on held-out pairs."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rubrica.control import chat_control
from rubrica.core.config import Json
from rubrica.core.errors import TrainingError
from rubrica.core.prompts import Prompt
from rubrica.core.records import Preference
from rubrica.core.run import Stage
from rubrica.core.stats import wilson
from rubrica.methods.dpo import best_over_worst
from rubrica.models.reward import HFRewardModel, conversation_ids
from rubrica.recipes.context import Context
from rubrica.recipes.models import ChatFormat, load_chat_format, model_folder
from rubrica.recipes.pairs import KIND, answered, answers_of, given_pairs, program_totals
from rubrica.recipes.prompts import identity
from rubrica.recipes.reward_scores import stored_scores
from rubrica.recipes.stages.reward_model import TrainReward
from rubrica.train.arguments import Numerics
from rubrica.train.policy import Lora, Start
from rubrica.train.reward_model import TextPair, pad_apart, reward_arguments, train_reward_model

LABEL = "reward-model"
LEARNING_RATE = 1e-5
_LENGTH = "max_length"


def run_reward_model(
    context: Context, config: TrainReward, stage: Stage, prompts: Sequence[Prompt]
) -> dict[str, object]:
    """Read or make the pairs, train, measure, return the summary."""
    pairs, dropped = given_pairs(config.pairs) if config.pairs else _made(context, config, stage, prompts)
    source = config.model or context.recipe.policy
    chat = load_chat_format(model_folder(source, context.surroundings), source.chat_template)
    pad_apart(chat.tokenizer)
    given = config.trainer.get(_LENGTH)
    rows = text_pairs(pairs, chat, given if isinstance(given, int) else chat.context)
    dropped += ["longer than max_length or the context"] * (len(pairs) - len(rows))
    fitting = [pair for pair in pairs if pair.id in rows]
    train, held_out = split(fitting, config.held_out, context.recipe.seed)
    reasons = dict(Counter(dropped).most_common())
    if not train:
        told = ", ".join(f"{reason} ({n})" for reason, n in reasons.items()) or "all are held out"
        raise TrainingError(
            f"{stage.name}: none of {len(pairs)} pairs can be trained on: {told}; give more, or lower held_out"
        )
    with context.run.store.batch():
        for pair in fitting:
            context.run.store.put(KIND, pair.id, pair, stage=stage.name)
    trained = train_reward_model(
        Start(
            model=model_folder(source, context.surroundings),
            lora=None if config.lora is None else Lora(**config.lora.model_dump()),
            dtype=source.dtype,
        ),
        [rows[pair.id] for pair in train],
        chat.tokenizer,
        stage,
        _trainer(config),
        seed=context.recipe.seed,
        source=context.source,
        progress=context.report,
        label=f"{LABEL}: training",
        learning_rate=LEARNING_RATE,
    )
    return {
        "pairs": len(train),
        "dropped": reasons,
        **trained,
        **_measured(context, stage, held_out, source.dtype),
    }


def check_trainer(
    config: TrainReward, numerics: Numerics, output_dir: Path, seed: int, source: str | Path
) -> None:
    """Raise ``DataError`` on options that the trainer refuses."""
    reward_arguments(_trainer(config), numerics, output_dir, seed, source, LEARNING_RATE)


def _trainer(config: TrainReward) -> Mapping[str, Json]:
    return {name: value for name, value in config.trainer.items() if name != _LENGTH}


def split(
    pairs: Sequence[Preference], held_out: float, seed: int
) -> tuple[list[Preference], list[Preference]]:
    """Return pairs to train on and pairs to measure with; all pairs of one prompt are on the same side.

    At least one prompt is held out where a share is asked for and two or more are given.
    """
    names = list(dict.fromkeys(identity(pair.prompt) for pair in pairs))
    count = round(held_out * len(names))
    if held_out and len(names) > 1:
        count = min(max(count, 1), len(names) - 1)
    apart = set(random.Random(f"held-out/{seed}").sample(names, count))
    sides: tuple[list[Preference], list[Preference]] = ([], [])
    for pair in pairs:
        sides[identity(pair.prompt) in apart].append(pair)
    return sides


def text_pairs(pairs: Sequence[Preference], chat: ChatFormat, limit: int | None) -> dict[str, TextPair]:
    """Return the tokens of each pair by its id; pairs with a text of more than ``limit`` tokens are left out."""
    control = chat_control(chat.tokenizer)
    found: dict[str, TextPair] = {}
    for pair in pairs:
        ids = [
            conversation_ids(chat.tokenizer, control, pair.prompt, text)
            for text in (pair.chosen, pair.rejected)
        ]
        if limit is None or max(map(len, ids)) <= limit:
            found[pair.id] = TextPair(*ids)
    return found


def _made(
    context: Context, config: TrainReward, stage: Stage, prompts: Sequence[Prompt]
) -> tuple[list[Preference], list[str]]:
    """Pairs from the recipe's prompts: the teacher's answer preferred, or the one that the program scores highest."""
    teacher = context.recipe.teacher
    if config.preferred == "teacher":
        assert teacher is not None  # checked before the run was started
        return answered(context, stage, teacher, config.sampling, prompts, label=LABEL)
    asked = list({prompt.id: prompt for prompt in prompts}.values())
    answers = [
        answers_of(
            context,
            stage,
            None,
            config.sampling.model_copy(update={"seed": config.sampling.seed + turn}),
            asked,
            kind=f"answer.{turn}",
            label=LABEL,
        )
        for turn in range(config.samples)
    ]
    if teacher is not None:
        answers.append(
            answers_of(context, stage, teacher, config.sampling, asked, kind="teacher", label=LABEL)
        )
    by_prompt = [[found[prompt.id] for found in answers] for prompt in asked]
    items = [(prompt, a.text) for prompt, given in zip(asked, by_prompt, strict=True) for a in given]
    totals = program_totals(context, LABEL, items)
    size = len(answers)
    return best_over_worst(asked, by_prompt, [totals[n : n + size] for n in range(0, len(totals), size)])


def _measured(
    context: Context, stage: Stage, held_out: Sequence[Preference], dtype: str
) -> dict[str, object]:
    """Share of held-out pairs whose chosen answer scores higher, with its 95 % Wilson interval, and the mean margin."""
    items = [(pair.prompt, text) for pair in held_out for text in (pair.chosen, pair.rejected)]
    if not items:
        return {"held_out": 0, "accuracy": None}
    model = HFRewardModel(stage.model_dir, dtype=dtype)
    found = stored_scores(context.run.store, model, items, partial(context.report, f"{LABEL}: measuring"))
    margins = [
        better - worse
        for better, worse in zip(found[::2], found[1::2], strict=True)
        if isinstance(better, float) and isinstance(worse, float)
    ]
    if not margins:
        return {"held_out": 0, "accuracy": None}
    share = wilson(sum(margin > 0 for margin in margins), len(margins))
    return {
        "held_out": len(margins),
        "accuracy": share.value,
        "accuracy_low": share.low,
        "accuracy_high": share.high,
        "mean_margin": sum(margins) / len(margins),
        "fingerprint": model.fingerprint,
    }
