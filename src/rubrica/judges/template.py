"""The message that puts one question about one text to a judge.

Order as in QA-LIGN (arXiv 2506.08123, appendix A): instruction, conversation, answer, question; the wording is
ours. The question stands last, so that every question about a text shares one prefix.

The text under judgment is hostile. It stands between two lines that carry a marker which its author cannot
know, every line of it is quoted with ``> ``, so that none can be a fence, a heading or the question, and
control tokens of chat models are broken up, so that no tokenizer reads one inside it.
"""

import hashlib
import hmac
import re
import unicodedata
from functools import lru_cache
from importlib import resources
from typing import Literal, NamedTuple

from rubrica.core.records import Message, Prompt, Query, Wording
from rubrica.program.pooling import allowed_labels as allowed_labels

Mode = Literal["label", "reason"]
TEMPLATE = "examiner-1"
"""Name and version of the wording; with :data:`TEMPLATE_HASH` part of every judge's fingerprint."""

_FILES = (
    "system",
    "conversation",
    "answer",
    "question",
    "gate",
    "protected",
    "graded",
    "reply-label",
    "reply-reason",
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

_PLACEHOLDER = re.compile(r"\{(marker|conversation|answer|question|scale|reply|labels)\}")
# ``<|im_end|>`` and its kin, sentence and turn marks, Llama 2's brackets: a blank breaks each of them.
_CONTROL = re.compile(
    r"<(?=[|｜])|(?<=[|｜])>|<(?=/?(?:s|bos|eos|pad|unk|mask|think|start_of_turn|end_of_turn|tool_call)>)"
    r"|<(?=</?SYS>>)|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\])",
    re.IGNORECASE,
)


class Segments(NamedTuple):
    """The message in the pieces that queries share: by judge, by prompt, by text, by question.

    Where the question comes first, all of the message is the question's.
    """

    system: str
    conversation: str
    answer: str
    question: str

    @property
    def user(self) -> str:
        """The user's turn: conversation, answer, question."""
        return self.conversation + self.answer + self.question


def fence_marker(secret: str) -> str:
    """Marker of the fence, 16 hex digits: constant for one store, unknown to who wrote the text."""
    return hmac.new(secret.encode(), b"rubrica/judge/fence/1", hashlib.sha256).hexdigest()[:16]


def segments(query: Query, marker: str, mode: Mode = "label") -> Segments:
    """Build the message of one query; ``marker`` comes from :func:`fence_marker`."""
    question, parts = query.question, _WORDED[query.wording]
    scale = "protected" if question.protected else question.kind.value
    labels = allowed_labels(question)
    if query.wording is Wording.OPTIONS_REVERSED:
        labels = labels[::-1]
    reply = _fill(parts[f"reply-{mode}"], labels=", ".join(labels)).strip()
    conversation = _fill(
        parts["conversation"], marker=marker, conversation=quote(_transcript(query.prompt), marker)
    )
    answer = _fill(parts["answer"], marker=marker, answer=quote(query.text, marker))
    first = query.wording is Wording.QUESTION_FIRST
    return Segments(
        system=_fill(parts["system"], marker=marker).strip(),
        conversation="" if first else conversation,
        answer="" if first else answer,
        question=_fill(
            parts["question"],
            question=_plain(question.text, marker),
            conversation=conversation,
            answer=answer,
            scale=parts[scale].strip(),
            reply=reply,
        ).strip(),
    )


def chat_messages(query: Query, marker: str, mode: Mode = "label") -> tuple[Message, ...]:
    """Return the system turn and the user turn that put ``query`` to a chat model."""
    parts = segments(query, marker, mode)
    return (Message(role="system", content=parts.system), Message(role="user", content=parts.user))


@lru_cache(maxsize=128)  # the questions about one text follow each other
def quote(text: str, marker: str) -> str:
    """Quote hostile text: every line behind ``> ``, no marker, no control token."""
    return "\n".join(f"> {_plain(line, marker)}" for line in text.splitlines() or [""])


def _plain(text: str, marker: str) -> str:
    """Break control tokens, and remove the marker in whatever disguise it comes."""
    text = _CONTROL.sub(lambda match: f"{match[0]} " if match[0] != ">" else " >", text)
    if marker not in _skeleton(text):
        return text
    text = text.replace(marker, "[mark]")
    return text if marker not in _skeleton(text) else "[a line that imitates the mark was removed]"


def _skeleton(text: str) -> str:
    """Return ``text`` as a careless reader sees it: compatibility forms folded, letters and digits only."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def _transcript(prompt: Prompt) -> str:
    if len(prompt.messages) == 1 and prompt.messages[0].role == "user":
        return prompt.messages[0].content
    names = {"system": "System", "user": "Human", "assistant": "Assistant"}
    # Further lines are indented, so that no turn can contain what looks like another.
    return "\n".join(f"{names[m.role]}: " + "\n  ".join(m.content.splitlines()) for m in prompt.messages)


def _fill(part: str, **values: str) -> str:
    """Fill the placeholders in one pass: a value that holds a placeholder stays as it is."""
    return _PLACEHOLDER.sub(lambda match: values[match[1]], part)
