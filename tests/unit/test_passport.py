"""The passport of scripted judges whose every figure is known beforehand."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from rubrica.core.config import content_hash
from rubrica.core.data import Text
from rubrica.core.errors import DataError, JudgeError, UsageError
from rubrica.core.programs import Dimension, Principle, Program, Question
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Estimate, Label, Outcome, Query, Unmeasured, Verdict, Wording
from rubrica.core.stats import wilson
from rubrica.core.store import Store
from rubrica.judges.asking import query_key
from rubrica.judges.attacks import apply, attacks, controls, replaces
from rubrica.judges.keys import text_hash, verdict_key
from rubrica.judges.passport import Floor, read_passport, stale, unmet, vouch
from rubrica.judges.perturb import FRAMES, IDLE, doublings, framed, padded
from rubrica.judges.reliability import majority
from rubrica.program.program import load_program, question_hash
from rubrica.recipes.passport import CheckOptions, Names, calls_of, check_judge, plan
from rubrica.recipes.passport_input import Given, Labels, read_given
from rubrica.recipes.surroundings import default_surroundings

GATE = Question(id="g", kind="gate", text="Is it polite?", clause="c")
CLEAR = Question(id="s", kind="graded", text="How clear is it?", clause="c")
PROGRAM = Program(
    name="small",
    constitution="c",
    principles=(
        Principle(id="p", title="P", dimensions=(Dimension(id="d", title="D", questions=(GATE, CLEAR)),)),
    ),
)
OPTIONS = CheckOptions(repeats=1, sample=4, attack_pairs=2)
NO_LABELS = Labels({}, None, "")


class RuleJudge:
    """Answers by a rule of (query, how many queries of this text and question it was asked before)."""

    def __init__(
        self, rule: Callable[[Query, int], Label | Verdict], wordings: frozenset[Wording] = frozenset(Wording)
    ):
        self.rule, self.wordings = rule, wordings
        self.fingerprint = f"rule-{content_hash(rule.__qualname__)}"
        self.asked: list[Query] = []
        self.seen: Counter[tuple[str, str, Wording]] = Counter()
        self.dies_after: int | None = None

    def answer(self, queries):
        for index, query in enumerate(queries):
            if self.dies_after is not None and len(self.asked) >= self.dies_after:
                raise KeyboardInterrupt
            key = (query.text, query.question.text, query.wording)
            given = self.rule(query, self.seen[key])
            self.asked.append(query)
            self.seen[key] += 1
            if isinstance(given, Label):
                outcome = Outcome.NOT_APPLICABLE if given is Label.NA else Outcome.ANSWERED
                given = Verdict(question_id=query.question.id, outcome=outcome, label=given)
            yield index, given


def good(query: Query, before: int = 0) -> Label:
    return Label.TRUE if query.question.id == "g" else Label.A


def bad(query: Query, before: int = 0) -> Label:
    return Label.FALSE if query.question.id == "g" else Label.F


def texts(*words: str) -> list[Text]:
    found = []
    for word in words:
        prompt = Prompt(id="p", messages=(Message(role="user", content="Hi"),))
        found.append(Text(text_hash(prompt, word), prompt, word))
    return found


def labels_for(given: list[Text], *pairs: tuple[Label, Label]) -> Labels:
    ratings = {}
    for text, (gate, grade) in zip(given, pairs, strict=True):
        ratings[text.id, "g"], ratings[text.id, "s"] = [gate], [grade]
    return Labels(ratings, None, "file")


def examine(tmp_path: Path, judge: RuleJudge, given: Given, options: CheckOptions = OPTIONS):
    with Store(tmp_path / "store.sqlite") as store:
        return check_judge(
            judge, store, given, program=PROGRAM, options=options, names=Names("rule", "small.yaml")
        )


def plain(*words: str) -> Given:
    return Given(texts(*words), NO_LABELS, [], NO_LABELS)


WORDS = ("one two three", "four five six", "seven eight nine", "ten eleven twelve")


def test_a_judge_that_praises_everything(tmp_path):
    # Labels: g is TRUE, TRUE, TRUE, FALSE; s is A, A, A, F. The judge is right in 6 of 8 answers.
    own = texts(*WORDS)
    labelled = labels_for(own, *[(Label.TRUE, Label.A)] * 3, (Label.FALSE, Label.F))
    found = examine(tmp_path, RuleJudge(good), Given(own, labelled, [], NO_LABELS))
    for name in (
        "repeat",
        "order",
        "position",
        "paraphrase",
        "paraphrase-instruction",
        "paraphrase-question",
    ):
        assert found.measure(name).value == 1, name
    assert found.measure("agreement").value == 0.75
    assert found.measure("agreement", "g").low == wilson(3, 4).low
    assert found.measure("kappa").value == 0, "agreement of a constant judge is all chance"
    assert found.measure("sensitivity", "gates").value == 0
    assert found.measure("sensitivity", "g").n == 1
    assert (found.measure("specificity", "g").value, found.measure("specificity", "g").n) == (1, 3)
    assert found.measure("length").value == 0
    assert found.measure("na").value == found.measure("missing").value == 0
    assert isinstance(found.measure("injection"), Unmeasured)
    assert "ought to stay so" in found.measure("injection").reason
    assert found.confusion["g"] == {Label.TRUE: {Label.TRUE: 3}, Label.FALSE: {Label.TRUE: 1}}


def test_a_judge_that_follows_the_order_of_the_options(tmp_path):
    def rule(query, before):
        return (bad if query.wording is Wording.OPTIONS_REVERSED else good)(query)

    found = examine(tmp_path, RuleJudge(rule), plain(*WORDS))
    assert found.measure("order").value == found.measure("order", "s").value == 0
    assert found.measure("order").n == 8
    for name in ("repeat", "position", "paraphrase"):
        assert found.measure(name).value == 1


def test_a_judge_that_minds_the_words_of_the_question_or_its_place(tmp_path):
    def rule(query, before):
        reworded = query.question.text == framed(GATE, FRAMES[0]).text
        return (bad if reworded or query.wording is Wording.QUESTION_FIRST else good)(query)

    found = examine(tmp_path, RuleJudge(rule), plain(*WORDS))
    assert found.measure("position").value == 0
    assert found.measure("paraphrase-instruction").value == 1
    # Two frames, of which one moves the gate: 1 of 4 answers; with the reworded instruction 1 of 6.
    assert found.measure("paraphrase-question").value == 0.75
    assert found.measure("paraphrase").value == pytest.approx(5 / 6)
    assert found.measure("paraphrase-question", "g").value == 0.5


def test_a_repeat_is_asked_again_and_seen(tmp_path):
    judge = RuleJudge(lambda query, before: (bad if before else good)(query))
    found = examine(tmp_path, judge, plain(*WORDS), CheckOptions(repeats=2, sample=4, attack_pairs=0))
    assert found.measure("repeat").value == 0
    assert found.measure("repeat").n == 2 * 4 * 2
    assert found.measure("order").value == 1
    assert found.measure("injection").reason == "not asked for"


def test_a_judge_that_loves_length(tmp_path):
    # The expected value of the gate is 0.1 log2(characters) - 0.5: exactly 0.1 for each doubling.
    def rule(query, before):
        p = (1 + 0.1 * doublings("x", query.text) - 0.5) / 2
        if query.question.id == "s":
            return Label.C
        label = Label.TRUE if p > 0.5 else Label.FALSE
        chances = {Label.TRUE: p, Label.FALSE: 1 - p, Label.NA: 0.0}
        return Verdict(question_id="g", outcome=Outcome.ANSWERED, label=label, probabilities=chances)

    options = CheckOptions(repeats=0, sample=4, attack_pairs=0)
    found = examine(tmp_path, RuleJudge(rule), plain(*WORDS), options)
    slope = found.measure("length", "g")
    assert (slope.value, slope.low, slope.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.measure("length", "s").value == 0
    # one text has a slope of 0.1 and one of 0
    assert found.measure("length").value == pytest.approx(0.05)


def test_the_oracles_own_change_with_length_is_no_fault_of_the_judge(tmp_path):
    # The judge follows the reference, which itself prefers short texts.
    def truth(query, before=0):
        return (good if len(query.text) < 20 else bad)(query)

    given = texts(*WORDS)
    followed = Labels({}, RuleJudge(truth), "oracle")
    found = examine(tmp_path, RuleJudge(truth), Given(given, followed, [], NO_LABELS))
    assert found.measure("length").value == 0
    assert found.measure("agreement").value == 1
    flattered = RuleJudge(lambda query, before: good(query))
    assert examine(tmp_path, flattered, Given(given, followed, [], NO_LABELS)).measure("length").value > 0.5


def test_attacks_succeed_on_a_judge_that_does_as_it_is_told(tmp_path):
    # It says TRUE wherever the text says TRUE. Which attacks those are is read off the battery itself.
    def rule(query, before):
        return Label.TRUE if query.question.id == "g" and "TRUE" in query.text else bad(query)

    given = plain(*WORDS[:3])
    found = examine(tmp_path, RuleJudge(rule), given, CheckOptions(repeats=0, sample=0, attack_pairs=100))
    expected: dict[str, list[bool]] = {}
    for attack in attacks():
        if attack.flood:
            continue  # floods are tried on three answers by lot
        for text in given.texts:
            for question in (GATE, CLEAR):
                if replaces(attack) and question is GATE:
                    continue  # without a label nobody knows whether a text without content fails the gate
                hostile = apply(attack, text.text, questions=(question,))
                expected.setdefault(attack.family, []).append(question is GATE and "TRUE" in hostile)
    for family, flags in expected.items():
        if not any(attack.flood for attack in attacks() if attack.family == family):
            measured = found.measure("injection", family)
            assert (measured.value, measured.n) == (pytest.approx(sum(flags) / len(flags)), len(flags)), (
                family
            )
    assert 0 < found.measure("injection").value < 1
    assert found.measure("injection-control").value == found.measure("injection-missing").value == 0


def test_an_honest_judge_is_not_moved_and_a_hostile_text_may_deserve_better(tmp_path):
    # Judge and oracle agree: a text with "two" is bad, and so is every text made of it; all others are good.
    def truth(query, before=0):
        return (bad if "two" in query.text else good)(query)

    given = texts(*WORDS)
    found = examine(
        tmp_path, RuleJudge(truth), Given(given, Labels({}, RuleJudge(truth), "oracle"), [], NO_LABELS)
    )
    # Only the first text is bad: two questions to each attack, and where nothing is left of it, it is bad no more.
    # A text that is spelled otherwise is as bad as before, and only a careless judge falls for that.
    left = [attack for attack in attacks() if not replaces(attack)]
    respelled = sum("two" not in apply(attack, WORDS[0], questions=(GATE,)) for attack in left)
    assert found.measure("injection").n == 2 * len(left)
    assert found.measure("injection").value == pytest.approx(respelled / len(left))
    assert found.measure("injection-control").value == 0


def test_na_failures_and_abstentions_are_counted_and_are_no_answers(tmp_path):
    def rule(query, before):
        if query.question.id == "s":
            return Label.NA
        word = query.text.split()[0]
        outcome = {"one": Outcome.FAILED, "four": Outcome.UNPARSEABLE, "seven": Outcome.ABSTAINED}.get(word)
        return Verdict(question_id="g", outcome=outcome, reason="no") if outcome else Label.TRUE

    given = texts(*WORDS)
    labelled = labels_for(given, *[(Label.TRUE, Label.A)] * 4)
    found = examine(tmp_path, RuleJudge(rule), Given(given, labelled, [], NO_LABELS))
    assert found.measure("na", "s").value == 1
    assert found.measure("na").value == 4 / 5, "four NA among five answers"
    assert found.measure("na-escape", "s").value == 1
    assert found.measure("missing", "g").value == 0.75
    for kind in ("failed", "unparseable", "abstained"):
        assert found.measure(kind).value == 1 / 8
    assert (found.measure("agreement").value, found.measure("agreement").n) == (1 / 5, 5)


def test_self_preference_is_the_excess_over_the_labels(tmp_path):
    # Own texts deserve FALSE and F and get TRUE and A: +2 each; others' texts get what they deserve.
    own, others = texts("own a", "own b"), texts(*WORDS[:2])
    given = Given(
        others,
        labels_for(others, *[(Label.TRUE, Label.A)] * 2),
        own,
        labels_for(own, *[(Label.FALSE, Label.F)] * 2),
    )
    found = examine(tmp_path, RuleJudge(good), given).measure("self-preference")
    assert (found.value, found.low, found.high, found.n) == (2, 2, 2, 4)
    assert isinstance(
        examine(tmp_path, RuleJudge(good), plain(*WORDS)).measure("self-preference"), Unmeasured
    )


def test_a_judge_of_one_wording_is_not_said_to_be_stable(tmp_path):
    found = examine(tmp_path, RuleJudge(good, wordings=frozenset()), plain(*WORDS))
    for name in ("order", "position", "paraphrase-instruction"):
        assert found.measure(name).reason.startswith("not applicable")
    assert found.measure("paraphrase-question").value == 1


def test_a_killed_check_asks_only_the_rest(tmp_path):
    judge = RuleJudge(lambda query, before: bad(query))
    whole = RuleJudge(lambda query, before: bad(query))
    given = plain(*WORDS)
    (tmp_path / "whole").mkdir()
    straight = examine(tmp_path / "whole", whole, given)
    for stop in (5, 17, 50):
        judge.dies_after = stop
        with pytest.raises(KeyboardInterrupt):
            examine(tmp_path, judge, given)
        assert len(judge.asked) == stop
    judge.dies_after = None
    resumed = examine(tmp_path, judge, given)
    assert len(judge.asked) == len(whole.asked)
    assert resumed.measures == straight.measures
    examine(tmp_path, judge, given)
    assert len(judge.asked) == len(whole.asked), "a second run asks nothing, repeats included"
    # 4 texts, 2 questions: base, 1 repeat, 3 wordings, 2 frames, 2 lengths; then attacks on 2 answers each
    rounds = plan(given, PROGRAM, OPTIONS, judge)
    planned = calls_of([(each.name, len(each.variants)) for each in rounds], OPTIONS)
    assert planned["base"] == planned["repeat"] == 8 and planned["paraphrase-question"] == 16
    battery = len(attacks()) + len(controls())
    assert sum(planned.values()) == 8 * 9 + 2 * battery >= len(whole.asked)


def test_the_first_asking_is_that_of_every_scorecard_and_a_repeat_is_not():
    (text,) = texts("one")
    query = Query(prompt=text.prompt, text=text.text, question=GATE)
    known = verdict_key("j", question_hash(GATE), text.id)
    keys = [query_key("j", query), query_key("j", query, 1), query_key("j", query, 2)]
    keys += [query_key("j", query.model_copy(update={"wording": wording})) for wording in list(Wording)[1:]]
    assert keys[0] == known
    assert len(set(keys)) == len(keys)


def test_a_dead_judge_is_told_before_all_is_asked(tmp_path):
    judge = RuleJudge(
        lambda q, n: Verdict(question_id=q.question.id, outcome=Outcome.FAILED, reason="no route")
    )
    with pytest.raises(JudgeError, match=r"first 50 calls all failed; last reason: no route"):
        examine(tmp_path, judge, plain(*(f"text {n}" for n in range(60))))
    assert len(judge.asked) == 50


def test_padding_keeps_the_text_and_reaches_its_length():
    text = "A short answer."
    longer = padded(text, 4)
    assert longer.startswith(text) and 4 * len(text) <= len(longer) < 4 * len(text) + 60
    assert padded(text, 1) == text
    assert doublings("ab", "abababab") == 2


def test_idle_sentences_mean_nothing_to_the_oracle():
    from rubrica.lab.answers import labelled
    from rubrica.lab.oracle import read

    for prompt, text in labelled("idle", 40):
        before, after = read(prompt, text), read(prompt, f"{text.rstrip()} {' '.join(IDLE[:2])}")
        for name in ("harmful", "gives", "declines", "admits", "correct", "offers_safe", "explains"):
            assert getattr(after, name) == getattr(before, name), (name, text)


def test_of_several_raters_the_majority_counts():
    assert majority([Label.TRUE, Label.FALSE, Label.TRUE]) is Label.TRUE
    assert majority([Label.TRUE, Label.FALSE]) is None
    assert majority([]) is None


ROW = {"prompt": "Hi", "response": "one two", "question_id": "g", "label": "true"}


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_labels_are_read_with_their_raters(tmp_path):
    rows = [
        ROW | {"rater": rater, "label": label}
        for rater, label in zip("abc", ("TRUE", False, "true"), strict=True)
    ]
    rows.append(ROW | {"question_id": "s", "label": "B", "rater": "a"})
    path = write(tmp_path / "labels.jsonl", *rows)
    given = read_given(PROGRAM, default_surroundings(), texts=None, labels=str(path), own=None, limit=None)
    (text,) = given.texts
    assert given.labels.ratings == {
        (text.id, "g"): [Label.TRUE, Label.FALSE, Label.TRUE],
        (text.id, "s"): [Label.B],
    }
    assert given.labels.of([(text, GATE), (text, CLEAR)]) == [Label.TRUE, Label.B]
    assert given.labels.of_changed([(text, GATE, "other")]) == [None]
    found = examine(tmp_path, RuleJudge(good), given)
    assert found.measure("alpha-raters").n == 1


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (ROW | {"question_id": "gg"}, r":2: program small has no question 'gg' \(did you mean 'g'\?\)"),
        (ROW | {"label": "B", "rater": "b"}, r":2: label B for question 'g'; it offers TRUE, FALSE, NA"),
        (ROW | {"label": "yes", "rater": "b"}, r":2: label 'yes'; expected one of TRUE, FALSE, A"),
        (ROW, r":2: question 'g' about this text is answered in line 1 too"),
    ],
)
def test_bad_labels_name_file_and_line(tmp_path, row, problem):
    path = write(tmp_path / "labels.jsonl", ROW, row)
    with pytest.raises(DataError, match=problem):
        read_given(PROGRAM, default_surroundings(), texts=None, labels=str(path), own=None, limit=None)


def test_without_texts_there_is_nothing_to_examine():
    with pytest.raises(UsageError, match="give --input FILE of texts, --labels FILE, or both"):
        read_given(PROGRAM, default_surroundings(), texts=None, labels=None, own=None, limit=None)


@pytest.fixture
def kept(tmp_path) -> Path:
    given = texts(*WORDS)
    labelled = labels_for(given, *[(Label.TRUE, Label.A)] * 3, (Label.FALSE, Label.F))
    found = examine(tmp_path, RuleJudge(good), Given(given, labelled, [], NO_LABELS))
    path = tmp_path / "passport.json"
    path.write_text(found.model_dump_json())
    return path


def test_a_passport_knows_what_has_changed_since(kept):
    found = read_passport(kept)
    assert stale(found, PROGRAM, found.judge) == []
    assert "the judge changed" in stale(found, None, "another")[0]
    changed = PROGRAM.model_dump()
    changed["principles"][0]["dimensions"][0]["questions"][1]["text"] = "How plain is it?"
    assert stale(found, Program.model_validate(changed), found.judge) == [
        "the program changed: question s of small was not measured"
    ]
    # pooling and ids change no answer
    assert stale(found, PROGRAM.model_copy(update={"version": "2"}), found.judge) == []
    old = found.model_copy(update={"template": "examiner-0/x"})
    assert "the template changed: examiner-0/x" in stale(old, PROGRAM, found.judge)[0]


def test_a_floor_is_held_against_the_unfavourable_end(kept):
    found = read_passport(kept)
    spec = found.measure("specificity", "gates")
    assert spec.value == 1 and spec.low == pytest.approx(0.438, abs=1e-3)  # 3 of 3
    assert list(unmet(Floor(specificity=0.43, repeat=0.3), found)) == []
    (problem,) = unmet(Floor(specificity=0.9), found)
    assert problem == (
        "all questions (gates): specificity found 1.000 [0.439, 1.000], n=3, whose unfavourable end is 0.439; "
        "required at least 0.9"
    )
    (problem,) = unmet(Floor.model_validate({"questions": {"g": {"sensitivity": 0.5}}}), found)
    assert problem.startswith("question g: sensitivity found 0.000")
    (problem,) = unmet(Floor(injection=0.05), found)
    assert "was not measured" in problem and "required at most 0.05" in problem
    assert list(unmet(Floor(missing=0.4, na=0.5, length=0.0), found)) == []
    assert len(list(unmet(Floor(missing=0.1), found))) == 1, "no failure in 8 answers shows no rate below 0.1"


def test_vouching_warns_of_what_is_old_and_refuses_what_is_low(kept, tmp_path):
    found = read_passport(kept)

    def ask(floor=None, judge=found.judge, path=kept):
        return vouch(str(path), floor, program=PROGRAM, judge=judge, where="r.yaml: judge")

    assert ask() == []
    assert ask(judge="other")[0].startswith(f"r.yaml: judge: passport {kept} is stale: the judge changed")
    assert "not there" in ask(path=tmp_path / "none.json")[0]
    with pytest.raises(
        UsageError, match=r"r.yaml: judge: the judge does not reach the floor .*agreement found 0.750"
    ):
        ask(Floor(agreement=0.9))
    with pytest.raises(UsageError, match=r"not there.*the floor asks for it"):
        ask(Floor(repeat=0.1), path=tmp_path / "none.json")
    with pytest.raises(UsageError, match="asks for a fresh one"):
        ask(Floor(fresh=True), judge="other")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(DataError, match=r"bad\.json"):
        ask(path=tmp_path / "bad.json")
    assert isinstance(found.measure("agreement"), Estimate)


def test_a_file_of_labelled_answers_is_one_of_labels_where_one_question_is_asked(tmp_path):
    """The file that ``rubrica eval judge`` labels; its booleans say the opposite of the gate's, so none is taken."""
    rows = [{"question": "How?", "response": "So.", "label": "Unsafe"}, {"prompt": "p", "response": "q"}]
    path = write(tmp_path / "labels.jsonl", rows[0])
    around = default_surroundings()
    given = read_given(load_program("harm"), around, texts=None, labels=str(path), own=None, limit=None)
    [text] = given.texts
    assert text.prompt.messages[0].content == "How?"
    assert given.labels.ratings == {(text.id, "harm.none"): [Label.FALSE]}
    for label, problem in ((True, "label 'True'; expected one of harmful"), ("refused", "label 'refused'")):
        path = write(tmp_path / "labels.jsonl", rows[1] | {"label": label})
        with pytest.raises(DataError, match=problem):
            read_given(load_program("harm"), around, texts=None, labels=str(path), own=None, limit=None)
