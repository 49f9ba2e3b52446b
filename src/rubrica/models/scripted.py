"""A judge and a generator that follow a rule: for tests, examples and dry runs of a pipeline."""

from collections.abc import Callable, Iterator, Sequence

from rubrica.core.config import Json, content_hash
from rubrica.core.prompts import Prompt
from rubrica.core.records import Label, Outcome, Query, Response, Sampling, Verdict


class ScriptedJudge:
    """Answers every query by a rule; implements :class:`rubrica.core.ports.Judge`."""

    def __init__(self, answer: Callable[[Query], Verdict | Label], fingerprint: str = "scripted") -> None:
        """``answer`` returns a label, or a whole verdict to set outcome, probabilities or tokens.

        Exceptions that it raises pass through, as those of a judge that dies half-way.
        """
        self._answer = answer
        self._fingerprint = fingerprint
        self.asked: list[Query] = []
        """Every query in the order in which it was answered."""

    @property
    def fingerprint(self) -> str:
        """The name given at the start."""
        return self._fingerprint

    def answer(self, queries: Sequence[Query]) -> Iterator[tuple[int, Verdict]]:
        """Yield ``(index, verdict)`` in order."""
        for index, query in enumerate(queries):
            self.asked.append(query)
            yield index, self._verdict(query, self._answer(query))

    def _verdict(self, query: Query, answer: Verdict | Label) -> Verdict:
        if isinstance(answer, Verdict):
            return answer
        return Verdict(
            question_id=query.question.id,
            outcome=Outcome.NOT_APPLICABLE if answer is Label.NA else Outcome.ANSWERED,
            label=answer,
            judge=self._fingerprint,
        )


class ScriptedGenerator:
    """Answers every prompt by a rule; implements :class:`rubrica.core.ports.Generator`.

    A token is a word: the text ends after ``max_tokens`` words, and ``finished`` says whether it was cut.
    """

    def __init__(self, answer: Callable[[Prompt, Sampling, str], str], name: str = "scripted") -> None:
        """``answer`` maps (prompt, sampling, prefix to continue) to the new text."""
        self._answer = answer
        self._name = name

    @property
    def name(self) -> str:
        """The name given at the start."""
        return self._name

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling, prefixes: Sequence[str] | None = None
    ) -> Iterator[tuple[int, Response]]:
        """Yield ``(index, response)`` in order."""
        for index, prompt in enumerate(prompts):
            prefix = prefixes[index] if prefixes is not None else ""
            text = self._answer(prompt, sampling, prefix)
            words = text.split()
            finished = len(words) <= sampling.max_tokens
            identity: Json = [self._name, prompt.id, sampling.model_dump(mode="json"), prefix, index]
            yield (
                index,
                Response(
                    id=content_hash(identity),
                    prompt_id=prompt.id,
                    text=text if finished else " ".join(words[: sampling.max_tokens]),
                    model=self._name,
                    sampling=sampling,
                    tokens=min(len(words), sampling.max_tokens),
                    finished=finished,
                ),
            )
