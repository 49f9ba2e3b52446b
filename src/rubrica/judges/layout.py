"""Token layout of one question for a local judge: what queries share, then what is the question's own.

Text written by others is tokenized apart from the layout and can produce no control token, whatever it spells.
Shared and own part are tokenized apart as well, so that a question has the same tokens whether it is asked
alone or beside others.
"""

import re
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

from pydantic import Field, field_validator

from rubrica.control import ControlTokens
from rubrica.core.config import Config, content_hash
from rubrica.core.errors import JudgeError, UsageError
from rubrica.core.records import Label, Query
from rubrica.judges.hostile import NEUTRAL, visible
from rubrica.judges.template import TEMPLATE, TEMPLATE_HASH, Mode, Reply, fence_marker, segments

LAB_SPECIALS = ("<|user|>", "<|assistant|>", "<|text|>", "<|question|>", "<|verdict|>")
LAB_TEMPLATE = "<|user|>{prompt}<|text|>{text}<|question|>{question}<|verdict|>"
_FIELDS = re.compile(r"\{(prompt|text|question)\}")
_OPEN_THINKING = re.compile(r"<(think|thinking|thought|reasoning)>\s*$")
_OPENING = {"label": "Answer:", "reason": "Reason:"}
"""What a model without chat template continues, by mode; in mode ``reason`` a chat model too."""
CLOSING = "\nAnswer:"
"""Stands between a reason and the answer."""
_FORMS: dict[Mode, Reply] = {"label": "label", "reason": "lines"}
_SLOTS = ("RubricaSlotSystem6b1f", "RubricaSlotUser6b1f")


class JudgeCard(Config):
    """``rubrica_judge.json``: how a checkpoint that was trained as a judge is asked, and its calibration."""

    format: Literal["lab", "chat"] = "lab"
    """``lab``: ``template`` below. ``chat``: the tokenizer's chat template; only the calibration is read."""
    template: str = LAB_TEMPLATE
    """Layout with ``{prompt}``, ``{text}`` and ``{question}``, in this order; the rest is control tokens."""
    user: str = "<|user|>"
    """Token before every further turn of a user (or of the system) inside ``{prompt}``."""
    assistant: str = "<|assistant|>"
    """Token before a turn of the assistant inside ``{prompt}``."""
    specials: tuple[str, ...] = LAB_SPECIALS
    """Control tokens of the layout; each must be one token of the tokenizer."""
    labels: dict[Label, str] = Field(default_factory=lambda: {label: label.value for label in Label})
    """How each answer is written."""
    temperature: float = Field(default=1.0, gt=0)
    """Divides the scores of the answers before the softmax; fitted on labelled texts."""
    veto_thresholds: dict[str, float] = Field(default_factory=dict)
    """Per question id: probability of FALSE from which a protected gate vetoes; fitted on labelled texts."""

    @field_validator("template")
    @classmethod
    def _fields_in_order(cls, template: str) -> str:
        if (found := _FIELDS.findall(template)) != ["prompt", "text", "question"]:
            raise ValueError(
                f"template holds {found}; expected {{prompt}}, {{text}}, {{question}} once, in order"
            )
        return template

    @field_validator("labels")
    @classmethod
    def _every_label_differs(cls, labels: dict[Label, str]) -> dict[Label, str]:
        complete = {label: labels.get(label, label.value) for label in Label}
        if len(set(complete.values())) < len(complete) or not all(complete.values()):
            raise ValueError("two labels are written alike, or one is empty")
        return complete

    @field_validator("veto_thresholds")
    @classmethod
    def _probabilities(cls, thresholds: dict[str, float]) -> dict[str, float]:
        if bad := {key: value for key, value in thresholds.items() if not 0 <= value <= 1}:
            raise ValueError(f"thresholds outside [0, 1]: {bad}")
        return thresholds


class Tokenizer(Protocol):
    """What the layout needs of a ``transformers`` tokenizer."""

    chat_template: str | None
    bos_token: str | None
    eos_token_id: int | None

    def encode(self, text: str, *, add_special_tokens: bool, split_special_tokens: bool) -> list[int]:
        """Token ids of ``text``."""

    def decode(self, ids: list[int], *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> str:
        """Text of token ids."""

    def __len__(self) -> int:
        """Number of tokens."""

    def get_added_vocab(self) -> dict[str, int]:
        """Tokens that are matched before the tokenizer splits a text."""

    def apply_chat_template(
        self,
        conversation: list[dict[str, str]],
        *,
        tokenize: Literal[False],
        add_generation_prompt: bool,
        enable_thinking: bool,
    ) -> str:
        """Render a conversation."""


class Piece(NamedTuple):
    """A stretch of the layout. Only a trusted one may hold control tokens."""

    text: str
    trusted: bool


class Parts(NamedTuple):
    """One query: pieces that it shares with the other questions about the text, and its own."""

    shared: tuple[Piece, ...]
    own: tuple[Piece, ...]


Layout = Callable[[Query], Parts]


class Encoder:
    """Tokenizes pieces; the same pieces always give the same tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        control = {text: token for text, token in tokenizer.get_added_vocab().items() if text.strip()}
        self.control_ids = frozenset(control.values())
        self._control = ControlTokens(control)
        self._known: dict[tuple[Piece, ...], tuple[int, ...]] = {}

    def encode(self, pieces: tuple[Piece, ...], *, keep: bool = False) -> tuple[int, ...]:
        """Token ids of ``pieces``; with ``keep`` they are remembered (questions, not texts)."""
        if (known := self._known.get(pieces)) is not None:
            return known
        ids = tuple(token for piece in pieces for token in self._piece(piece))
        if keep:
            if len(self._known) >= 20_000:
                self._known.clear()
            self._known[pieces] = ids
        return ids

    def _piece(self, piece: Piece) -> list[int]:
        if piece.trusted:
            return self._tokenizer.encode(piece.text, add_special_tokens=False, split_special_tokens=False)
        ids: list[int] = []
        for text in self._control.cut(piece.text):
            ids += self._tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        if not self.control_ids.isdisjoint(ids):
            ids = [token for token in ids if token not in self.control_ids]
        return ids


def lab_layout(card: JudgeCard) -> Layout:
    """Layout of a judge that was trained with control tokens of its own (``card.template``)."""
    head, _, middle, _, tail, _, end = _FIELDS.split(card.template)

    def parts(query: Query) -> Parts:
        conversation: list[Piece] = []
        for index, message in enumerate(query.prompt.messages):
            if index:
                turn = card.assistant if message.role == "assistant" else card.user
                conversation.append(Piece(turn, True))
            conversation.append(Piece(visible(message.content), False))
        shared = (Piece(head, True), *conversation, Piece(middle, True), Piece(visible(query.text), False))
        return Parts(
            shared, (Piece(tail, True), Piece(visible(query.question.text), False), Piece(end, True))
        )

    return parts


def chat_layout(tokenizer: Tokenizer, secret: str, mode: Mode = "label") -> Layout:
    """Layout of any chat model: the examiner's message in the tokenizer's chat template.

    In mode ``reason`` the model's turn is begun with ``Reason:``.
    Thinking is switched off; a think tag that the template opens all the same is closed at once.
    Raises :class:`JudgeError` for a chat template that does not show what it is given.
    """
    marker = fence_marker(secret)
    before, between, after = _chat_frame(tokenizer)
    after += _OPENING[mode] if mode == "reason" else ""

    def parts(query: Query) -> Parts:
        said = segments(query, marker, _FORMS[mode])
        system = Piece(said.system if between else f"{said.system}\n\n", False)
        shared = (Piece(before, True), system, Piece(between, True))
        return Parts(
            (*shared, Piece(said.conversation + said.answer, False), Piece(said.task, False)),
            (Piece(said.question, False), Piece(after, True)),
        )

    return parts


def plain_layout(tokenizer: Tokenizer, secret: str, mode: Mode = "label") -> Layout:
    """Layout of a model without chat template: the examiner's message as one text."""
    marker = fence_marker(secret)
    start = tokenizer.bos_token or ""

    def parts(query: Query) -> Parts:
        said = segments(query, marker, _FORMS[mode])
        text = f"{said.system}\n\n{said.conversation}{said.answer}"
        return Parts(
            (Piece(start, True), Piece(text, False), Piece(said.task, False)),
            (Piece(f"{said.question}\n\n{_OPENING[mode]}", False),),
        )

    return parts


def choose_layout(
    tokenizer: Tokenizer, card: JudgeCard | None, secret: str, mode: Mode = "label"
) -> tuple[Layout, str, JudgeCard]:
    """Return the layout, its identity for the fingerprint, and the card with the labels' spelling.

    Raises :class:`UsageError` for mode ``reason`` and a layout of a judge's own, which has no room for one.
    """
    if card is not None and card.format == "lab":
        if mode == "reason":
            raise UsageError(
                "judge: mode 'reason', but rubrica_judge.json has a layout of its own (format 'lab'), which has no room "
                "for a reason; expected mode 'label', or a chat model"
            )
        for special in card.specials:
            ids = tokenizer.encode(special, add_special_tokens=False, split_special_tokens=False)
            if len(ids) != 1 or special not in tokenizer.get_added_vocab():
                raise JudgeError(
                    f"rubrica_judge.json: {special!r} is not one control token of the tokenizer; "
                    "expected every entry of 'specials' to be an added token"
                )
        return lab_layout(card), f"lab/{NEUTRAL}/{content_hash(card.template)}", card
    identity = f"{TEMPLATE}/{TEMPLATE_HASH}"
    chat = bool(tokenizer.chat_template)
    behind_a_colon = mode == "reason" or (card is None and not chat)
    card = card or JudgeCard(format="chat")
    if behind_a_colon:
        spelled = {label: f" {text.lstrip()}" for label, text in card.labels.items()}
        card = card.model_copy(update={"labels": spelled})
    if mode == "reason":
        identity += f"/reason/{content_hash([_OPENING[mode], CLOSING])}"
    if chat:
        frame = content_hash(list(_chat_frame(tokenizer)))
        return chat_layout(tokenizer, secret, mode), f"{identity}/chat/{frame}", card
    return plain_layout(tokenizer, secret, mode), f"{identity}/plain", card


def reason_stops(
    tokenizer: Tokenizer, encoder: Encoder, vocabulary: int, ends: Sequence[int]
) -> frozenset[int]:
    """Tokens that end a reason: a line break, ``ends``, any control token, and ids that the tokenizer does not know.

    So a reason is one line of text, whatever the text under judgment made the model write: it cannot end the turn
    and begin another.
    """
    known = min(len(tokenizer), vocabulary)
    stops = {*ends, *encoder.control_ids, *range(known, vocabulary)}
    for token in range(known):
        text = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if text.splitlines() not in ([text], []):
            stops.add(token)
    return frozenset(stops)


def _chat_frame(tokenizer: Tokenizer) -> tuple[str, str, str]:
    """What the chat template puts before the system's text, between it and the user's, and after."""
    system, user = _SLOTS
    roles = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    merged = [{"role": "user", "content": system + user}]
    for conversation in (roles, merged):
        try:
            rendered = tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        except Exception:  # templates raise errors of their own to refuse a system turn
            continue
        if rendered.count(system) == rendered.count(user) == 1 and rendered.index(system) < rendered.index(
            user
        ):
            before, rest = rendered.split(system)
            between, after = rest.split(user)
            if tag := _OPEN_THINKING.search(after):
                after = f"{after.rstrip()}\n\n</{tag[1]}>\n\n"
            return before, between, after
    raise JudgeError(
        "chat template of the judge: does not show a system and a user turn; "
        "expected each once and in order; use a model with an ordinary chat template"
    )


def label_ids(tokenizer: Tokenizer, card: JudgeCard, allowed: Sequence[Label]) -> tuple[tuple[int, ...], ...]:
    """Token ids of each allowed answer; where one begins another, all are closed with the end token."""
    written = [
        tuple(tokenizer.encode(card.labels[label], add_special_tokens=False, split_special_tokens=False))
        for label in allowed
    ]
    nested = any(a is not b and b[: len(a)] == a for a in written for b in written)
    if not nested:
        return tuple(written)
    end = tokenizer.eos_token_id
    closed = tuple((*ids, end) for ids in written if end is not None)
    if len(set(closed)) < len(written):
        raise JudgeError(
            f"tokenizer of the judge: writes {[card.labels[label] for label in allowed]} so that one answer begins "
            "another and has no end token; choose other 'labels' in rubrica_judge.json"
        )
    return closed
