"""Under which keys texts, verdicts, scorecards and veto thresholds lie in the store."""

from rubrica.core.config import Json, content_hash
from rubrica.core.programs import Program
from rubrica.core.prompts import Prompt
from rubrica.program.plan import plan_of

VETO = "veto"
"""Kind under which the veto thresholds of a judge lie in the store, by its fingerprint."""


def card_id(prompt: Prompt, text: str, program: Program, judge: str) -> str:
    """Return the id under which the scorecard of ``text`` by the judge with this fingerprint is stored."""
    return content_hash([text_hash(prompt, text), plan_of(program).hash, judge, *_own(prompt, program)])


def item_id(prompt: Prompt, text: str, program: Program) -> str:
    """Return what tells apart the texts that ``program`` judges: the same for those that share a scorecard."""
    return content_hash([text_hash(prompt, text), *_own(prompt, program)], length=32)


def _own(prompt: Prompt, program: Program) -> list[Json]:
    """What two prompts of the same words may have of their own that makes another scorecard."""
    asked: list[Json] = [question.model_dump(mode="json") for question in prompt.questions]
    tags: list[Json] = [prompt.tags.get(name, "") for name in plan_of(program).tags]
    return [asked, tags] if asked or tags else []


def text_hash(prompt: Prompt, text: str) -> str:
    """Return the content hash of a text in answer to the prompt's messages."""
    messages: Json = [[m.role, m.content] for m in prompt.messages]
    return content_hash([messages, text], length=32)


def verdict_key(judge: str, question: str, text: str) -> str:
    """Return the key of a verdict from the judge's fingerprint, ``question_hash`` and :func:`text_hash`."""
    return content_hash([judge, question, text], length=32)
