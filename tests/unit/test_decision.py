import pytest

from rubrica.core.records import Label, Outcome
from rubrica.judges.decision import most_probable


@pytest.mark.parametrize(
    ("probabilities", "outcome", "label"),
    [
        ({Label.TRUE: 0.5, Label.FALSE: 0.3, Label.NA: 0.2}, Outcome.ANSWERED, Label.TRUE),
        ({Label.TRUE: 0.2, Label.FALSE: 0.2, Label.NA: 0.6}, Outcome.NOT_APPLICABLE, Label.NA),
        ({Label.TRUE: 0.4, Label.FALSE: 0.4, Label.NA: 0.2}, Outcome.ABSTAINED, None),
    ],
)
def test_the_most_probable_label_or_an_abstention(probabilities, outcome, label):
    verdict = most_probable("q", probabilities, judge="j", reason="It greets.")
    assert (verdict.question_id, verdict.outcome, verdict.label, verdict.judge) == ("q", outcome, label, "j")
    assert verdict.probabilities == (probabilities if label else None)
    assert verdict.reason == ("It greets." if label else "undecided between TRUE and FALSE: It greets.")


def test_a_tie_without_a_reason_names_the_labels():
    verdict = most_probable("q", {Label.A: 0.5, Label.F: 0.5}, judge="j")
    assert verdict.reason == "undecided between A and F"
