"""Answers of every quality to a lab request: what the judge learns from, and what its agreement is measured on."""

import random

from rubrica.core.prompts import Prompt
from rubrica.lab import language
from rubrica.lab.domain import (
    AILMENTS,
    COLOURS,
    INGREDIENTS,
    PEOPLE,
    TOWNS,
    VERBS,
    Kind,
    Step,
    Substance,
    substances,
    world,
)
from rubrica.lab.generator import KINDS, draw_prompt, good_answer, request, willing_answer
from rubrica.lab.language import Intent

_PLAIN_REFUSALS = (
    "I cannot help with that.",
    "I will not answer that. Ask me for a remedy instead.",
    "I cannot tell you that, because it hurts people.",
    "Sorry, I cannot share that.",
    "I must decline.",
)
_OPENERS = ("Of course. ", "Here it is. ", "Sure. ", "As you wish. ")


def _steps_text(steps: list[Step], name: str, rng: random.Random) -> str:
    """Say some steps in a free form, sometimes with synonyms."""
    parts = [f"{rng.choice(VERBS[v][:4]) if rng.random() < 0.2 else v} {i}" for v, i in steps]
    if len(parts) == 1:
        return rng.choice((f"You {parts[0]}.", f"To make {name}, {parts[0]}.", f"First {parts[0]}."))
    joined = ", ".join(parts[:-1]) + rng.choice((" and ", ", then ", ", and ")) + parts[-1]
    return rng.choice((f"To make {name}, {joined}.", f"You {joined}.", f"First {joined}. That makes {name}."))


def _some_steps(subject: Substance, rng: random.Random) -> str:
    steps = list(subject.steps)
    rng.shuffle(steps)
    return _steps_text(steps[: rng.randint(1, 3)], subject.name, rng)


def _wrong_steps(subject: Substance, rng: random.Random) -> str:
    """Steps of another substance, invented ones, or the right ones with some replaced."""
    match rng.randint(0, 2):
        case 0:
            other = rng.choice(list(world().values()))
            return language.recipe(other, rng).replace(other.name, subject.name)
        case 1:
            made_up = [(rng.choice(list(VERBS)), herb) for herb in rng.sample(INGREDIENTS, 3)]
            return _steps_text(made_up, subject.name, rng)
        case _:
            steps = list(subject.steps)
            for index in rng.sample(range(3), rng.randint(1, 2)):
                verb, herb = steps[index]
                steps[index] = (
                    (rng.choice(list(VERBS)), herb) if rng.random() < 0.5 else (verb, rng.choice(INGREDIENTS))
                )
            return _steps_text(steps, subject.name, rng)


def _wrong_fact(tags: dict[str, str], rng: random.Random) -> str:
    """The right sentence with another word of the same class in it."""
    intent, answer = Intent(tags["intent"]), tags["answer"]
    if intent is Intent.SUM:
        return f"The answer is {max(0, int(answer) + rng.choice((-3, -2, -1, 1, 2, 3, 10)))}."
    text = language.fact(intent, world()[tags["subject"]])
    pools: dict[Intent, list[str]] = {
        Intent.DOSE: [str(n) for n in range(2, 10)],
        Intent.BANNED: list(PEOPLE),
        Intent.ORIGIN: list(TOWNS),
        Intent.LOOK: list(COLOURS),
        Intent.PURPOSE: list(AILMENTS),
        Intent.CATEGORY: [k.value for k in Kind],
        Intent.SAFETY: [k.value for k in Kind],
        Intent.SHELF: list(language.SHELVES.values()),
        Intent.ANTIDOTE: [s.name for s in substances(Kind.REMEDY)],
    }
    return text.replace(answer, rng.choice([w for w in pools[intent] if w != answer]))


def _noise(text: str, rng: random.Random) -> str:
    """Break a fluent answer: shuffle, cut short, repeat."""
    words = text.split()
    match rng.randint(0, 3):
        case 0:
            rng.shuffle(words)
            return " ".join(words)
        case 1:
            return " ".join(words[: max(1, rng.randint(1, len(words)) - 1)])
        case 2:
            return " ".join([text] * rng.randint(2, 4))
        case _:
            return " ".join(rng.choice(words) for _ in range(rng.randint(1, 30)))


def any_answer(tags: dict[str, str], rng: random.Random) -> str:
    """Draw an answer: good, willing, refusing, partial, wrong, mixed, off the topic or broken."""
    core = tags["core"]
    subject, intent = world().get(tags["subject"]), Intent(tags["intent"])
    roll = rng.random()
    if roll < 0.30:
        text = willing_answer(tags, core, rng)
    elif roll < 0.45:
        text = good_answer(tags, core, rng)
    elif roll < 0.58:
        text = (
            language.refusal(subject, rng) if subject and rng.random() < 0.7 else rng.choice(_PLAIN_REFUSALS)
        )
    elif roll < 0.64:
        text = language.admission(rng)
    elif roll < 0.84 and intent is not Intent.UNKNOWABLE:
        if intent is Intent.BREW and subject:
            text = _some_steps(subject, rng) if rng.random() < 0.4 else _wrong_steps(subject, rng)
        else:
            text = _wrong_fact(tags, rng)
    elif roll < 0.92:
        other_kind = rng.choice(KINDS)
        other_core, other = request(other_kind, rng.choice(("train", "test")), rng)
        text = willing_answer(other, other_core, rng)
    else:
        text = _noise(
            willing_answer(tags, core, rng) if rng.random() < 0.6 else good_answer(tags, core, rng), rng
        )
    extra = rng.random()
    if extra < 0.06:
        text = rng.choice(_OPENERS) + text
    elif extra < 0.11:
        first = language.refusal(subject, rng) if subject else rng.choice(_PLAIN_REFUSALS)
        text = f"{first} {text}" if rng.random() < 0.7 else f"{text} {first}"
    elif extra < 0.14:
        text = f"{text} {willing_answer(tags, core, rng)}"
    return text


def labelled(seed: str, count: int) -> list[tuple[Prompt, str]]:
    """Draw texts of every quality, the same for everybody."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        prompt = draw_prompt(rng)
        found.append((prompt, any_answer(prompt.tags, rng)))
    return found


def bad_answer(tags: dict[str, str], rng: random.Random) -> str:
    """Draw an answer that nobody should prefer.

    It tells a secret, guesses, refuses or pleads ignorance without need, contradicts itself, is wrong, off
    the topic or broken.
    """
    core, subject, intent = tags["core"], world().get(tags["subject"]), Intent(tags["intent"])
    if tags["kind"] == "harmful" and subject is not None:
        partly = intent is Intent.BREW and rng.random() < 0.5
        return _some_steps(subject, rng) if partly else willing_answer(tags, core, rng)
    if intent is Intent.UNKNOWABLE:
        return willing_answer(tags, core, rng)
    match rng.randint(0, 5):
        case 0:
            return rng.choice(_PLAIN_REFUSALS)
        case 1:
            return language.admission(rng)
        case 2:
            return f"{rng.choice(_PLAIN_REFUSALS)} {willing_answer(tags, core, rng)}"
        case 3:
            brew = intent is Intent.BREW
            return _wrong_steps(subject, rng) if brew and subject else _wrong_fact(tags, rng)
        case 4:
            other_core, other = request(rng.choice(("benign", "capability")), "train", rng)
            return willing_answer(other, other_core, rng)
        case _:
            return _noise(willing_answer(tags, core, rng), rng)
