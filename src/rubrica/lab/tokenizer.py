"""The lab's byte-level BPE: about a thousand tokens, so that any text survives it, with its chat template."""

import random
import re

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rubrica.core.records import Label
from rubrica.lab.domain import (
    AILMENTS,
    COLOURS,
    FIRST,
    INGREDIENTS,
    PARTS,
    PEOPLE,
    PLANTS,
    SECOND,
    TOWNS,
    VERBS,
)
from rubrica.lab.generator import KINDS, good_answer, make_prompt, willing_answer
from rubrica.lab.language import Family
from rubrica.lab.twice import HOLDS, phrases
from rubrica.program.program import load_program

_NAME = re.compile(rf"\b(?:{'|'.join(FIRST)})(?:{'|'.join(SECOND)})\b")
VOCABULARY = 1024
PAD, END, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
TEXT, QUESTION, VERDICT = "<|text|>", "<|question|>", "<|verdict|>"
THINK, THINK_END = "<think>", "</think>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "{% if message.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def corpus(seed: int, count: int) -> list[str]:
    """Texts that the tokenizer is trained on: requests, answers and the world's words."""
    rng = random.Random(f"corpus-{seed}")
    families = list(Family)
    lines: list[str] = []
    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        prompt = make_prompt(kind, rng.choice(("train", "test")), families[index % len(families)], rng)
        core = prompt.tags["core"]
        lines += [
            prompt.messages[-1].content,
            good_answer(prompt.tags, core, rng),
            willing_answer(prompt.tags, core, rng),
        ]
    words = [*FIRST, *SECOND, *PLANTS, *PARTS, *INGREDIENTS, *COLOURS, *AILMENTS, *TOWNS, *PEOPLE, *VERBS]
    labels = [label.value for label in Label for _ in range(200)]
    questions = [
        q.text for p in load_program("lab").principles for d in p.dimensions for q in d.questions
    ] * 40
    reflections = [f"Hmm, my initial response {phrase}." for phrase in (*phrases().values(), HOLDS)] * 40
    # Names are never seen whole, so they stay two tokens that train and test substances share. A name that were one
    # token of its own would be unlearnt by any fine-tuning that does not mention it.
    syllables = [*FIRST, *(f" {first}" for first in FIRST), *SECOND] * 200
    lines = [_NAME.sub("", line) for line in lines]
    return (
        lines
        + syllables
        + labels
        + questions
        + reflections
        + [f" {word}" for word in words for _ in range(40)]
    )


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train the tokenizer; the think tags are ordinary text that happens to be one token each."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    specials = [PAD, END, USER, ASSISTANT, SYSTEM, TEXT, QUESTION, VERDICT]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )
    fast.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in (THINK, THINK_END)])
    fast.chat_template = CHAT_TEMPLATE
    return fast
