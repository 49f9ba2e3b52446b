"""Stage SFT: supervised fine-tuning on demonstrations as they are."""

from rubrica.core.run import Stage
from rubrica.recipes.context import Context
from rubrica.recipes.demonstrations import gather_demonstrations, keep_prompts, tokens_of
from rubrica.recipes.models import load_chat_format, training_start
from rubrica.recipes.stages.sft import Sft
from rubrica.train.sft import TokenRow, train_sft


def run_sft(context: Context, config: Sft, stage: Stage) -> dict[str, object]:
    """Train on the demonstrations and return the summary."""
    chat = load_chat_format(context.weights.model, context.weights.chat_template)
    shown = gather_demonstrations(config.demonstrations, context.surroundings)
    tokens, too_long = tokens_of(shown, chat, config.trainer.get("max_length"))
    keep_prompts(context.run.store, [demonstration.shown for demonstration in tokens])
    trained = train_sft(
        training_start(context),
        [TokenRow(demonstration.prompt_ids, demonstration.answer_ids) for demonstration in tokens],
        chat.tokenizer,
        stage,
        config.trainer,
        seed=context.recipe.seed,
        source=context.source,
        progress=context.report,
        label="sft",
    )
    return {"demonstrations": len(shown), "too_long": too_long, **trained}
