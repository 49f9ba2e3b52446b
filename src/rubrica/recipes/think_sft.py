"""Stage think-SFT: examples from draft, critique and revision, then supervised training on them."""

import gc
from collections import Counter
from collections.abc import Sequence
from functools import partial

from rubrica.core.attempt import parse, render
from rubrica.core.errors import JudgeError, RubricaError, TrainingError
from rubrica.core.ports import Completer, Generator
from rubrica.core.prompts import Prompt
from rubrica.core.records import Response, ThinkExample
from rubrica.core.run import Stage
from rubrica.methods.qa_lign import NO_TOTAL, NOTHING_TO_MEND, Weakness, templated_reflection
from rubrica.recipes.checks import check_phrases
from rubrica.recipes.context import Context, reference_judge
from rubrica.recipes.examples import CUT_OFF, ExampleBuilder, Reflect, build_summary, written_by
from rubrica.recipes.models import (
    ChatFormat,
    load_chat_format,
    open_generator,
    open_source,
    training_start,
)
from rubrica.recipes.sampling import stored_texts
from rubrica.recipes.stages.think_sft import ThinkSft
from rubrica.recipes.writer import JudgeWriter, open_writer
from rubrica.train.sft import TokenRow, train_sft


def run_think_sft(context: Context, config: ThinkSft, stage: Stage) -> dict[str, object]:
    """Build the examples, train on those that were kept, return the summary."""
    recipe, weights = context.recipe, context.weights
    chat = load_chat_format(weights.model, weights.chat_template)
    rendered = [chat.render(prompt) for prompt in (*context.prompts.sft, *context.prompts.replay)]
    chat.check(recipe.written_tags, rendered, max(config.draft.max_tokens, config.revision.max_tokens))
    executor = context.executor("think-sft")
    policy = open_generator(weights.model, recipe.policy.dtype, weights.chat_template)
    teacher = _teacher(context)
    builder = ExampleBuilder(
        stage=stage.name,
        config=config,
        tags=recipe.tags,
        program=context.program,
        store=context.run.store,
        executor=executor,
        judge=context.judge,
        policy=policy,
        teacher=teacher,
        reflect=reflection_writer(context, config),
        reference=reference_judge(context, config.reference),
        report=context.report,
    )
    examples = builder.build(context.prompts.sft)
    replayed = answer_plainly(context, config, stage, teacher or policy)
    del policy, teacher, builder
    gc.collect()  # the generators' weights go before the trainer's come
    rows, too_long = token_rows(context, config, chat, examples, replayed)
    if not rows:
        raise nothing_to_train_on(stage.name, examples)
    trained = train_sft(
        training_start(context),
        rows,
        chat.tokenizer,
        stage,
        config.trainer,
        seed=recipe.seed,
        source=context.source,
        progress=context.report,
    )
    return {
        **build_summary(examples),
        "too_long": too_long,
        "replayed": len(replayed),
        "rows": len(rows),
        **trained,
    }


def nothing_to_train_on(stage: str, examples: Sequence[ThinkExample]) -> RubricaError:
    """Return the error of a stage that kept no row: the judge's, who can be asked again, or the recipe's."""
    reasons = Counter(example.dropped or "too long" for example in examples).most_common(3)
    told = ", ".join(f"{reason} ({count})" for reason, count in reasons)
    said = f"{stage}: none of {len(examples)} examples can be trained on: {told}"
    if any(reason == NO_TOTAL for reason, _ in reasons):
        return JudgeError(f"{said}; mend the judge, then --resume asks for the missing answers")
    remedies = {
        CUT_OFF.format("revision"): "raise revision.max_tokens",
        CUT_OFF.format("draft"): "raise draft.max_tokens",
        "too long": "raise trainer.max_length, or lower draft.max_tokens and revision.max_tokens",
    }
    remedy = remedies.get(reasons[0][0], "use a teacher, a better judge, or other prompts")
    return TrainingError(f"{said}; {remedy}")


def reflection_writer(context: Context, config: ThinkSft) -> Reflect:
    """Return who writes reflections: the recipe's phrases, or the judge's model.

    Raises ``UsageError``, before anything is generated, when a question has no phrase.
    """
    if config.reflection == "judge":
        titles = [d.title for p in context.program.principles for d in p.dimensions]
        writer = _metered(context, open_writer(context.recipe.judge))
        return written_by(writer, context.run.store.secret, titles, context.recipe.tags)
    phrases = config.phrases
    check_phrases(config, context.program, context.source)

    def reflect(prompt: Prompt, draft: str, weakness: Weakness) -> str:
        return templated_reflection(weakness.question.id, phrases)

    return reflect


def _metered(context: Context, writer: JudgeWriter) -> Completer:
    if context.purse is None:
        return writer
    judge = context.recipe.judge
    return context.purse.writer(writer, writer.name, None if isinstance(judge, str) else judge.price)


def answer_plainly(
    context: Context, config: ThinkSft, stage: Stage, generator: Generator
) -> list[tuple[Prompt, Response]]:
    """Return finished answers to the replay prompts, each kept in the store as it comes."""
    prompts, report = context.prompts.replay, partial(context.report, "think-sft: replay")
    found = stored_texts(
        context.run.store, stage.name, "replay", generator, prompts, config.revision, None, report
    )
    return [(p, found[p.id]) for p in prompts if found[p.id].finished and found[p.id].text.strip()]


def token_rows(
    context: Context,
    config: ThinkSft,
    chat: ChatFormat,
    examples: Sequence[ThinkExample],
    replayed: Sequence[tuple[Prompt, Response]],
) -> tuple[list[TokenRow], int]:
    """Return the rows to train on, and how many were left out because they exceed the longest length.

    That is ``trainer.max_length``, else the model's context. Without reflection a row is the revision alone.
    """
    tags = context.recipe.written_tags
    by_id = {prompt.id: prompt for prompt in context.prompts.sft}
    completions = [
        (by_id[e.prompt_id], render(e.draft.text, e.reflection, e.revision, tags) if tags else e.revision)
        for e in examples
        if e.dropped is None
    ]
    completions += [
        (prompt, render(r.text, NOTHING_TO_MEND, r.text, tags) if tags else r.text) for prompt, r in replayed
    ]
    given = config.trainer.get("max_length")
    limit = given if isinstance(given, int) else chat.context
    rows: list[TokenRow] = []
    too_long = 0
    for prompt, completion in completions:
        if tags and parse(completion, tags, finished=True).malformed is not None:
            continue  # a replayed answer that holds a tag
        row = TokenRow(chat.prompt_ids(chat.render(prompt)), chat.completion_ids(completion))
        if limit is not None and len(row.prompt_ids) + len(row.completion_ids) > limit:
            too_long += 1
        else:
            rows.append(row)
    return rows, too_long


def _teacher(context: Context) -> Generator | None:
    source = context.recipe.teacher
    if source is None:
        return None
    return open_source(source, context.surroundings)
