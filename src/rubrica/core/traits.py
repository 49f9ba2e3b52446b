"""How a node of a program counts, in words: what ``program show``, ``score --explain`` and reports say beside it."""

from rubrica.core.programs import Dimension, Part, Principle, Program, Question


def traits(node: Program | Part | Question, program: Program) -> list[str]:
    """Return the ways in which ``node`` of ``program`` pools and is pooled, the way that it pools first."""
    said: list[str] = []
    if isinstance(node, Dimension):
        said.append(node.pool or program.pooling.grades)
    elif isinstance(node, Program | Principle):
        said.append(node.pool)
    if isinstance(node, Program):
        return said
    if node.weight is not None:
        said.append(f"weight {node.weight:g}")
    if node.level is not None:
        said.append(f"level {node.level:g}")
    if isinstance(node, Question):
        return [*said, "a fault"] if node.weight is not None and node.weight < 0 else said
    if node.gate:
        said.append("gate")
    if isinstance(node, Principle) and node.caps:
        said.append("caps the total")
    if isinstance(node, Dimension) and node.instance:
        said.append("takes the questions of prompts")
    if node.when is not None:
        said += [f"only where {name} is {' or '.join(map(repr, v))}" for name, v in node.when.tags.items()]
        said += [] if node.when.ask is None else [f"only where: {node.when.ask}"]
    return said
