"""An attack is a chain of transforms: its grammar, and what becomes of an item.

    spec   = step ("+" step)*            applied from left to right, so the rightmost is outermost
    step   = name [ "(" key "=" value ("," key "=" value)* ")" ]
    value  = characters other than , ( ) "   |   a JSON string in double quotes

``persona+base64`` is a persona's words in base64; ``many-shot(n=16)`` has 16 earlier turns. ``direct`` alone leaves the
item as it is.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from pydantic import ValidationError

from rubrica.attacks.registry import TRANSFORMS
from rubrica.attacks.transform import Family, Request, Transform, Variant, draw
from rubrica.core.errors import UsageError, nearest
from rubrica.core.evaluation import DIRECT, Item
from rubrica.core.prompts import Message

MOST_VARIANTS: Final = 100_000
"""Of one item."""
_NAME = re.compile(r"\s*([A-Za-z0-9_-]+)\s*")
_PAIR = re.compile(r'\s*([A-Za-z0-9_-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^,()"]*[^,()"\s])\s*')
_EXAMPLE = "for example persona+base64 or many-shot(n=16)"


class _Step(NamedTuple):
    transform: Transform
    spec: str


@dataclass(frozen=True)
class Attack:
    """A chain of transforms; made by :func:`parse_attack`."""

    steps: tuple[_Step, ...]

    @property
    def spec(self) -> str:
        """The attack as it is written in every item that it makes: parameters in order, defaults left out."""
        return "+".join(step.spec for step in self.steps) or DIRECT

    @property
    def count(self) -> int:
        """How many items it makes of one."""
        return math.prod(step.transform.count for step in self.steps)

    def __call__(self, item: Item, seed: int = 0) -> list[Item]:
        """Return the attacked items, a function of ``item``, ``seed`` and the attack.

        ``goal`` holds the plain request and ``cluster`` is kept. The id is ``ITEM/SPEC``, of several items
        ``ITEM/SPEC#1`` and so on. A step draws the same in every chain that it is a part of.
        """
        if not self.steps:
            return [item]
        goal = item.goal or item.prompt.messages[-1].content
        made = [_Made(item.prompt.messages)]
        seen: Counter[str] = Counter()
        for step in self.steps:
            seen[step.spec] += 1
            made = [
                one.then(step.transform, variant)
                for number, one in enumerate(made)
                for variant in step.transform.variants(
                    Request(
                        one.messages,
                        item.target,
                        draw(seed, item.id, step.spec, seen[step.spec], number),
                    )
                )
            ]
        several = len(made) > 1
        return [
            self._item(item, goal, one, f"#{number}" if several else "") for number, one in enumerate(made, 1)
        ]

    def _item(self, item: Item, goal: str, made: "_Made", number: str) -> Item:
        id = f"{item.id}/{self.spec}{number}"
        prompt = item.prompt.model_copy(
            update={"id": id, "messages": made.messages, "tags": item.prompt.tags | dict(made.notes)}
        )
        attack = f"{item.attack}+{self.spec}" if item.attack else self.spec
        return item.model_copy(update={"id": id, "prompt": prompt, "goal": goal, "attack": attack})


class _Made(NamedTuple):
    messages: tuple[Message, ...]
    notes: tuple[tuple[str, str], ...] = ()

    def then(self, transform: Transform, variant: Variant) -> "_Made":
        note = ((f"attack.{transform.name}", variant.note),) if variant.note else ()
        return _Made(variant.messages, self.notes + note)


def parse_attack(spec: str) -> Attack:
    """Read a spec; ``UsageError`` says where it does not fit the grammar, or names the nearest transform."""
    if spec.strip() == DIRECT:
        return Attack(())
    steps, rest = [], spec
    while True:
        name = _NAME.match(rest)
        if name is None:
            raise UsageError(f"attack {spec!r}: expected a name at {rest[:20]!r}, {_EXAMPLE}")
        pairs, rest = _arguments(spec, rest[name.end() :])
        steps.append(_step(spec, name[1], pairs))
        if not rest:
            break
        if not rest.startswith("+"):
            raise UsageError(f"attack {spec!r}: expected + or the end at {rest[:20]!r}, {_EXAMPLE}")
        rest = rest[1:]
    attack = Attack(tuple(steps))
    if attack.count > MOST_VARIANTS:
        raise UsageError(
            f"attack {spec!r}: makes {attack.count:,} items of one; the most is {MOST_VARIANTS:,}"
        )
    return attack


def _arguments(spec: str, rest: str) -> tuple[dict[str, str], str]:
    """Return the pairs in the parentheses that ``rest`` begins with, and what stands behind them."""
    if not rest.startswith("("):
        return {}, rest
    pairs: dict[str, str] = {}
    rest = rest[1:]
    while True:
        pair = _PAIR.match(rest)
        if pair is None or rest[pair.end() : pair.end() + 1] not in (",", ")"):
            raise UsageError(
                f'attack {spec!r}: expected key=value at {rest[:20]!r}, {_EXAMPLE}; put a value with , ( ) in "quotes"'
            )
        key, value = pair[1], pair[2]
        if key in pairs:
            raise UsageError(f"attack {spec!r}: {key} is given twice; give it once")
        pairs[key] = _unquoted(spec, value)
        ended, rest = rest[pair.end()] == ")", rest[pair.end() + 1 :]
        if ended:
            return pairs, rest.lstrip()


def _unquoted(spec: str, value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        raise UsageError(f"attack {spec!r}: {value[:40]} is no JSON string") from None


def _step(spec: str, name: str, pairs: dict[str, str]) -> _Step:
    kind = TRANSFORMS.get(name)
    if kind is None:
        hint = nearest(name, TRANSFORMS)
        raise UsageError(f"attack {spec!r}: no transform {name!r}{hint}; see rubrica attack list")
    known = kind.model_fields
    if unknown := next((key for key in pairs if key not in known), None):
        expected = f"expected one of {', '.join(known)}" if known else "it takes none"
        raise UsageError(
            f"attack {spec!r}: {name} has no parameter {unknown!r}{nearest(unknown, known)}; {expected}"
        )
    try:
        transform = kind.model_validate(pairs)
    except ValidationError as error:
        said = error.errors(include_url=False)[0]
        where = f"{said['loc'][0]}: " if said["loc"] else ""
        reason = said["msg"].removeprefix("Value error, ")
        raise UsageError(
            f"attack {spec!r}: {name}: {where}{reason[:1].lower()}{reason[1:]}, got {said['input']!r}"
        ) from None
    return _Step(transform, _canonical(name, transform))


def _canonical(name: str, transform: Transform) -> str:
    given = {
        key: value
        for key, value in transform.model_dump(mode="json").items()
        if value != type(transform).model_fields[key].get_default(call_default_factory=True)
    }
    pairs = [f"{key}={_written(value)}" for key, value in given.items()]
    return f"{name}({','.join(pairs)})" if pairs else name


def _written(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if re.fullmatch(r'[^,()"\s]+', text) else json.dumps(text)


def parse_attacks(specs: Sequence[str]) -> list[Attack]:
    """Read several specs; ``family:NAME`` stands for every transform of a family, ``all`` for every one there is.

    Equal ones are kept once.
    """
    found: dict[str, Attack] = {}
    for spec in specs:
        for one in _expanded(spec.strip()):
            attack = parse_attack(one)
            found.setdefault(attack.spec, attack)
    return list(found.values())


def _expanded(spec: str) -> list[str]:
    if spec == "all":
        return list(TRANSFORMS)
    kind, colon, name = spec.partition(":")
    if kind != "family" or not colon:
        return [spec]
    families = [family.value for family in Family]
    if name not in families:
        hint = nearest(name, families)
        raise UsageError(f"attack {spec!r}: no family {name!r}{hint}; expected one of {', '.join(families)}")
    return [key for key, transform in TRANSFORMS.items() if transform.family == name]


def attacked(items: Iterable[Item], attacks: Sequence[Attack], seed: int = 0) -> Iterator[Item]:
    """Yield every item under every attack, item by item."""
    for item in items:
        for attack in attacks:
            yield from attack(item, seed)
