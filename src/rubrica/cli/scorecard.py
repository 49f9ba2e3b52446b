"""A scorecard as a tree on the screen: op and value at every node, the answers below."""

from typing import TYPE_CHECKING

from rubrica.cli.output import plain

if TYPE_CHECKING:
    from rich.tree import Tree

    from rubrica.core.programs import Part, Program
    from rubrica.core.records import DimensionScore, PrincipleScore, Verdict
    from rubrica.recipes.score import ScoredText


def tree(program: "Program", found: "ScoredText") -> "Tree":
    """The scorecard with op and value at every node, and below each dimension its questions and answers."""
    from rich.text import Text
    from rich.tree import Tree

    from rubrica.core.instance import program_for
    from rubrica.core.traits import traits

    program = program_for(program, found.prompt)
    card = found.card
    veto = f", vetoed by {', '.join(card.vetoed_by)}" if card.vetoed_by else ""
    total = "no total" if card.total is None else f"total {card.total:+.3f}"

    def line(part: "Program | Part", title: str, style: str, value: str, said: str = "") -> Text:
        how = plain(", ".join(traits(part, program)))
        return Text.assemble((plain(title), style), f"  {value}", (f"  {how}{said}", "dim"))

    root = Tree(line(program, found.id, "bold", f"{total}{veto}"))
    for principle, score in zip(program.principles, card.principles, strict=True):
        outside = score.relevant is False
        branch = root.add(
            line(principle, principle.title, "bold cyan", _value(score, outside), _relevance(score))
        )
        for dimension, below in zip(principle.dimensions, score.dimensions, strict=True):
            value = _value(below, outside or below.relevant is False)
            leaf = branch.add(line(dimension, dimension.title, "bold", value, _relevance(below)))
            for question, verdict in zip(dimension.questions, below.verdicts, strict=True):
                how = "".join(f"  {trait}" for trait in traits(question, program))
                said = (
                    (f"{_answer(verdict)} ", "green"),
                    plain(question.text),
                    (f"{how}{_why(verdict)}", "dim"),
                )
                leaf.add(Text.assemble(*said))
    return root


def _value(score: "PrincipleScore | DimensionScore", outside: bool) -> str:
    if outside:
        return "does not apply to this prompt"
    if score.value is not None:
        return f"{score.value:+.3f}"
    return "not applicable" if score.known else "unknown"


def _relevance(score: "PrincipleScore | DimensionScore") -> str:
    """What the judge answered to the question about the prompt."""
    return "" if score.relevance is None else f" ({_answer(score.relevance)})"


def _answer(verdict: "Verdict") -> str:
    if verdict.label is None:
        return f"({verdict.outcome})"
    if verdict.probabilities is None:
        return verdict.label.value
    return f"{verdict.label} {verdict.probabilities[verdict.label]:.2f}"


def _why(verdict: "Verdict") -> str:
    return f"  {plain(' '.join(verdict.reason.split()))}" if verdict.reason else ""
