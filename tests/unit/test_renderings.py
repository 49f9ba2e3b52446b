"""No rendering of an attack can be confused; and a judge's message that is put together carelessly is found out."""

from collections.abc import Callable

import pytest

from rubrica.core.records import Wording
from rubrica.judges import hostile, template
from rubrica.judges.attacks import attacks
from rubrica.judges.layout import Encoder, JudgeCard, chat_layout, lab_layout, plain_layout
from rubrica.judges.renderings import PLACES, check_renderings, families
from tiny import tiny_tokenizer

FEW = [attack for attack in attacks() if attack.family in ("fences", "roles", "unicode")]
MARKED = [attack for attack in FEW if attack.family != "fences"]


def test_no_rendering_of_the_battery_can_be_confused():
    found = check_renderings(bases=["<"])
    assert not found.confused
    assert found.read > len(attacks()) * len(PLACES) * len(families())


@pytest.mark.parametrize("wording", [wording for wording in Wording if wording is not Wording.STANDARD])
def test_no_other_wording_can_be_confused(wording):
    assert not check_renderings(FEW, bases=["Fine."], wording=wording).confused


def as_it_is(text: str, marker: str = "") -> str:
    return text


def lines_kept(text: str, marker: str) -> str:
    """The quoting of someone who thinks of line feeds alone."""
    return "\n".join(f"> {line}" for line in hostile.neutral(text, marker).split("\n"))


CARELESS: dict[str, tuple[object, str, Callable[..., str], set[str]]] = {
    "no quoting": (hostile, "quote", as_it_is, {"lines", "mark", "unseen", "chatml", "mistral", "vicuna"}),
    "line feeds alone": (hostile, "quote", lines_kept, {"lines"}),
    "control tokens stay": (
        hostile,
        "broken",
        as_it_is,
        {"chatml", "llama-2", "gemma", "deepseek", "alpaca"},
    ),
    "the mark stays": (hostile, "_unmarked", as_it_is, {"mark"}),
    "the unseen stays": (hostile, "visible", as_it_is, {"unseen", "qwen"}),
    "questions keep their lines": (template, "one_line", hostile.neutral, {"lines"}),
}


@pytest.mark.parametrize("fault", CARELESS)
def test_a_careless_message_is_found_out(fault, monkeypatch):
    module, name, careless, readers = CARELESS[fault]
    monkeypatch.setattr(module, name, careless)
    if name == "quote":
        monkeypatch.setattr(template, "quote", careless)
    hostile.quote.cache_clear() if name != "quote" else None
    found = check_renderings(FEW, bases=["Fine."])
    assert readers <= {confusion.reader for confusion in found.confused}


class Shown:
    """What a local judge would read, without the model."""

    def __init__(self, layout, encoder):
        self.layout, self.encoder = layout, encoder

    def control_tokens(self, query):
        parts = self.layout(query)
        ids = self.encoder.encode(parts.shared) + self.encoder.encode(parts.own)
        return tuple(token for token in ids if token in self.encoder.control_ids)


@pytest.mark.parametrize("layout", ["lab", "plain", *families()])
def test_a_local_judge_reads_the_layouts_control_tokens_alone(layout):
    if layout in families():
        family = families()[layout]
        tokenizer = tiny_tokenizer(chat_template=family.template)
        tokenizer.add_tokens(list(family.marks))
        tokenizer.chat_template = family.template
        made = chat_layout(tokenizer, "secret")
    else:
        tokenizer = tiny_tokenizer(chat_template=None)
        made = lab_layout(JudgeCard()) if layout == "lab" else plain_layout(tokenizer, "secret")
    encoder = Encoder(tokenizer)
    assert not check_renderings(MARKED, judge=Shown(made, encoder), bases=["Fine."]).confused
    if layout != "plain":
        assert encoder.control_ids & set(
            tokenizer.encode("".join(families()[layout].marks) if layout in families() else "<|text|>")
        )
