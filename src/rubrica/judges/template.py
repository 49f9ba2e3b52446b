"""The message that puts one question about one text to a judge.

Order as in QA-LIGN (arXiv 2506.08123, appendix A): instruction, conversation, answer, question; the wording is
ours. The question stands last, behind its possible answers, so that all questions of one kind about a text share
everything but their own words.

The text under judgment is hostile. It stands between two lines that carry a marker which its author cannot
know, and :mod:`rubrica.judges.hostile` quotes every line of it, so that none can be a fence, a heading, a turn
or the question, and no tokenizer reads a control token inside it.
"""

import hashlib
import hmac
import re
from importlib import resources
from typing import Literal, NamedTuple

from rubrica.core.programs import Question
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Query, Wording
from rubrica.judges.hostile import NEUTRAL, one_line
from rubrica.judges.hostile import quote as quote
from rubrica.program.labels import allowed_labels as allowed_labels

Mode = Literal["label", "reason"]
Reply = Literal["label", "reason", "lines"]
"""Form of the reply: the label alone, JSON with a reason, or a line of reason and a line with the label."""
TEMPLATE = f"examiner-3.{NEUTRAL}"
"""Version of the wording and of what is done to texts; with :data:`TEMPLATE_HASH` part of a judge's fingerprint."""

_FILES = (
    "system",
    "conversation",
    "turn",
    "answer",
    "task",
    "question",
    "gate",
    "protected",
    "graded",
    "reply-label",
    "reply-reason",
    "reply-lines",
)
_FOLDER = resources.files("rubrica.judges").joinpath("prompts")
_PARTS = {name: _FOLDER.joinpath(f"{name}.txt").read_text(encoding="utf-8") for name in _FILES}
_CHANGED = {
    wording: {
        name: file.read_text(encoding="utf-8")
        for name in _FILES
        if (file := _FOLDER.joinpath(wording.value, f"{name}.txt")).is_file()
    }
    for wording in Wording
}
"""What each wording says otherwise than the standard one."""
_WORDED = {wording: _PARTS | changed for wording, changed in _CHANGED.items()}
WORDINGS_HASH = hashlib.sha256(repr(sorted(_CHANGED.items())).encode()).hexdigest()[:12]
"""Identity of the wordings other than the standard one."""
TEMPLATE_HASH = hashlib.sha256("\0".join(_PARTS[name] for name in _FILES).encode()).hexdigest()[:12]

_PLACEHOLDER = re.compile(r"\{(marker|role|conversation|answer|task|question|scale|reply|labels)\}")
_ROLES = {"system": "THE SYSTEM", "user": "THE HUMAN", "assistant": "THE ASSISTANT"}


class Segments(NamedTuple):
    """The message in the pieces that queries share: by judge, by prompt, by text, by kind of question, by question.

    Where the question comes first, all of the message is the question's.
    """

    system: str
    conversation: str
    answer: str
    task: str
    """The possible answers, and the form of the reply."""
    question: str

    @property
    def user(self) -> str:
        """The user's turn: conversation, answer, task, question."""
        return self.conversation + self.answer + self.task + self.question


def fence_marker(secret: str) -> str:
    """Marker of the fence, 16 hex digits: constant for one store, unknown to who wrote the text."""
    return hmac.new(secret.encode(), b"rubrica/judge/fence/1", hashlib.sha256).hexdigest()[:16]


def segments(query: Query, marker: str, form: Reply = "label") -> Segments:
    """Build the message of one query; ``marker`` comes from :func:`fence_marker`."""
    question, parts = query.question, _WORDED[query.wording]
    scale = "protected" if question.protected else question.kind.value
    labels = allowed_labels(question)
    if query.wording is Wording.OPTIONS_REVERSED:
        labels = labels[::-1]
    reply = _fill(parts[f"reply-{form}"], labels=", ".join(labels)).strip()
    conversation = _fill(parts["conversation"], marker=marker, conversation=transcript(query.prompt, marker))
    answer = _fill(parts["answer"], marker=marker, answer=quote(query.text, marker))
    task = _fill(parts["task"], scale=parts[scale].strip(), reply=reply)
    first = query.wording is Wording.QUESTION_FIRST
    return Segments(
        system=_fill(parts["system"], marker=marker).strip(),
        conversation="" if first else conversation,
        answer="" if first else answer,
        task="" if first else task,
        question=_fill(
            parts["question"].rstrip(),
            question=one_line(question.text, marker),
            conversation=conversation,
            answer=answer,
            task=task.rstrip(),
        ),
    )


def scale(question: Question) -> str:
    """Return the possible answers in words."""
    return _PARTS["protected" if question.protected else question.kind.value].strip()


def chat_messages(query: Query, marker: str, mode: Mode = "label") -> tuple[Message, ...]:
    """Return the system turn and the user turn that put ``query`` to a chat model."""
    parts = segments(query, marker, mode)
    return (Message(role="system", content=parts.system), Message(role="user", content=parts.user))


def transcript(prompt: Prompt, marker: str) -> str:
    """Return the quoted conversation; before each turn of several stands a line that only who knows the marker writes."""
    turns = prompt.messages
    if len(turns) == 1 and turns[0].role == "user":
        return quote(turns[0].content, marker)
    return "\n".join(
        _fill(_PARTS["turn"], marker=marker, role=_ROLES[turn.role]) + quote(turn.content, marker)
        for turn in turns
    )


def _fill(part: str, **values: str) -> str:
    """Fill the placeholders in one pass: a value that holds a placeholder stays as it is."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], part)
