"""A local model that is interrupted while it reads and writes."""

import pytest
import torch

from rubrica.core.config import dump_yaml
from rubrica.core.errors import UsageError
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Sampling
from rubrica.methods.interruptions import Schedule
from rubrica.models.hf import HFGenerator
from rubrica.models.pieces import Unfolding, token_pieces
from rubrica.recipes.forced import ForcedGenerator, Written, fitting, interrupted_folder
from rubrica.recipes.interruptions import Fences, InterruptedModel, load_plan
from rubrica.recipes.models import open_source
from rubrica.recipes.options import ModelSource
from rubrica.recipes.surroundings import default_surroundings
from tiny import SENTENCES, tiny_checkpoint, tiny_tokenizer

GREEDY = Sampling(temperature=0, max_tokens=20)
SOURCE = ModelSource(model="x", dtype="float32")


def prompt(text: str, id: str = "p") -> Prompt:
    return Prompt(id=id, messages=(Message(role="user", content=text),))


def plan(**more: object) -> InterruptedModel:
    return InterruptedModel(controls=("Keep to the rules.",), **more)


def test_pieces_of_a_tokenizer_are_its_tokens():
    tokenizer = tiny_tokenizer()
    pieces = token_pieces(tokenizer)
    for text in (*SENTENCES, "héllo 漢字 \n\n x", "", "🙂🙂"):
        assert "".join(pieces(text)) == text
        assert len(pieces(text)) == len(tokenizer.encode(text))


def test_text_unfolds_as_it_is_decoded_at_once():
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode("The root: 漢字 🙂 — boil it. " * 5)
    unfolding = Unfolding(tokenizer, skip_special_tokens=True)
    assert "".join(map(unfolding.push, ids)) == tokenizer.decode(ids)
    unfolding, half = Unfolding(tokenizer, skip_special_tokens=True), tokenizer.encode("a🙂")[:-1]
    assert "".join(map(unfolding.push, half)) == "a"
    assert unfolding.end() == tokenizer.decode(half)[1:] == "�"


def test_what_the_model_reads_is_the_augmented_sequence(tmp_path):
    """Greedy: each token that it writes is the likeliest behind prompt, answer and controls so far, read afresh."""
    folder = tiny_checkpoint(tmp_path, context=512)
    model = interrupted_folder(folder, plan(output=Schedule(every=6, slack=0)), SOURCE)
    forced = model.writer
    assert isinstance(forced, ForcedGenerator)
    shown = model.augment(prompt(SENTENCES[0]))
    ids = forced._encode(forced.render(shown))
    [(_, response)] = model.generate([prompt(SENTENCES[0])], GREEDY)
    log = forced.log["p", 0]
    assert [written.after for written in log] == [6, 12, 18]
    written_ids, expected = list(ids), []
    for number in range(1, 21):
        token = int(forced._model(torch.tensor([written_ids])).logits[0, -1].argmax())
        expected.append(token)
        written_ids.append(token)
        if number in (6, 12, 18):
            control = (
                f"\n{Fences(plan(output=Schedule(every=6, slack=0))).of('p').wrap('Keep to the rules.')}\n"
            )
            written_ids += forced._encode(control)
    assert response.text == forced._tokenizer.decode(expected, skip_special_tokens=True)
    assert (response.tokens, response.finished) == (20, False)


def test_without_schedules_of_its_own_it_is_the_plain_generator(tmp_path):
    folder = tiny_checkpoint(tmp_path)
    sampling = Sampling(temperature=0.9, top_p=0.9, max_tokens=10, seed=4)
    prompts = [prompt(text, f"p{n}") for n, text in enumerate(SENTENCES)]
    plain = dict(HFGenerator(folder).generate(prompts, sampling))
    mine = dict(interrupted_folder(folder, plan(fence=False), SOURCE).generate(prompts, sampling))
    assert [mine[n].text for n in range(4)] == [plain[n].text for n in range(4)]
    assert [mine[n].tokens for n in range(4)] == [plain[n].tokens for n in range(4)]


def test_the_stream_is_the_answer(tmp_path):
    model = interrupted_folder(
        tiny_checkpoint(tmp_path, context=512), plan(output=Schedule(every=5, slack=0)), SOURCE
    )
    [(_, response)] = model.generate([prompt(SENTENCES[1])], GREEDY)
    told = list(model.stream(prompt(SENTENCES[1]), GREEDY))
    assert "".join(part for part in told if isinstance(part, str)) == response.text
    assert [part for part in told if isinstance(part, Written)] == model.writer.log["p", 0] != []


class Script:
    """Makes a model write given ids, by a hook on its logits."""

    def __init__(self, model, ids):
        self.model, self.ids, self.at = model, ids, 0

    def __enter__(self):
        self.handle = self.model.register_forward_hook(self.speak)
        return self

    def __exit__(self, *ending):
        self.handle.remove()

    def speak(self, module, args, output):
        output.logits = torch.zeros_like(output.logits)
        output.logits[..., self.ids[min(self.at, len(self.ids) - 1)]] = 9.0
        self.at += 1
        return output


def written_by(folder, text, **more):
    model = interrupted_folder(folder, plan(fence=False, **more), SOURCE)
    ids = [*model.writer._encode(text), 1]
    with Script(model.writer._model, ids):
        [(_, response)] = model.generate([prompt("hi")], Sampling(temperature=0, max_tokens=200))
    assert response.text == text
    return text, model.writer.log["p", 0], model.writer


def test_regions(tmp_path):
    folder = tiny_checkpoint(tmp_path, context=4096)
    text = "Well. Now. <think>One. Two. Three. Four. Five. Six.</think> So. It. Is."
    for region, inside in (("reasoning", True), ("output", False)):
        _, log, model = written_by(folder, text, **{region: Schedule(every=3, slack=30)})
        assert log
        for written in log:
            before = model._tokenizer.decode(model._encode(text)[: written.after])
            assert written.region == region
            assert (before.count("<think>") > before.count("</think>")) is inside
            assert before[-1] == "." or before[-1].isspace()  # no word is split


def test_a_tag_that_the_template_opens_counts(tmp_path):
    template = (
        "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
    )
    folder = tiny_checkpoint(tmp_path, chat_template=template, context=4096)
    _, log, _ = written_by(folder, "One. Two.</think> Three.", reasoning=Schedule(every=2, slack=9))
    assert log and {written.region for written in log} == {"reasoning"}


def test_long_prompts_get_controls_and_answers_lose_them(tmp_path):
    folder = tiny_checkpoint(tmp_path, context=4096)
    model = interrupted_folder(folder, plan(conversation=Schedule(every=20, slack=8)), SOURCE)
    long = prompt(" ".join(SENTENCES))
    shown = model.augment(long)
    fence = Fences(plan(conversation=Schedule(every=20, slack=8))).of("p")
    assert shown.messages[0].role == "system"
    assert shown.messages[1].content.count(fence.wrap("Keep to the rules.")) >= 3
    with Script(model.writer._model, [*model.writer._encode(f"Yes {fence.wrap('x')}no"), 1]):
        [(_, response)] = model.generate([long], Sampling(temperature=0, max_tokens=100))
    assert response.text == "Yes no"


def test_a_template_without_system_turns_gets_everything_inline():
    loop = "{% for m in messages %}"
    strict = (
        loop + "{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}{% endfor %}"
    )
    first = loop + "{% if m.role != 'system' or loop.first %}{{ m.content }}{% endif %}{% endfor %}"
    wanted = plan(turns="developer")
    assert (
        fitting(wanted, tiny_tokenizer(chat_template=loop + "{{ m.content }}{% endfor %}")).turns
        == "developer"
    )
    found = fitting(wanted, tiny_tokenizer(chat_template=strict))
    assert (found.turns, found.note_in) == ("developer", "user")
    found = fitting(plan(turns="system"), tiny_tokenizer(chat_template=first))
    assert (found.turns, found.note_in) == ("inline", "system")


def test_controls_count_against_the_context(tmp_path):
    model = interrupted_folder(tiny_checkpoint(tmp_path, context=256), plan(output=Schedule(every=4)), SOURCE)
    with pytest.raises(UsageError, match="of controls, exceed the context"):
        list(model.generate([prompt("hi")], Sampling(temperature=0, max_tokens=60)))


def test_a_file_is_a_model(tmp_path, monkeypatch):
    folder = tiny_checkpoint(tmp_path / "m", context=512)
    file = tmp_path / "i.yaml"
    named = plan(output=Schedule(every=5), model=ModelSource(model=str(folder), dtype="float32"))
    file.write_text(dump_yaml(named, defaults=False))
    around = default_surroundings()
    [(_, response)] = open_source(ModelSource(model=f"interrupt:{file}"), around).generate(
        [prompt("hi")], GREEDY
    )
    [(_, again)] = interrupted_folder(folder, named, SOURCE).generate([prompt("hi")], GREEDY)
    assert response == again
    assert "interrupted" in response.model
    file.write_text("controls: [a]\n")
    with pytest.raises(UsageError, match="names no model"):
        open_source(ModelSource(model=f"interrupt:{file}"), around)
    file.write_text("controls: [a]\nsecret_env: SECRET_OF_NOBODY\n")
    with pytest.raises(UsageError, match="SECRET_OF_NOBODY is empty"):
        Fences(load_plan(file))
    monkeypatch.setenv("SECRET_OF_NOBODY", "s")
    assert Fences(load_plan(file)).of("p").nonce != Fences(plan()).of("p").nonce
