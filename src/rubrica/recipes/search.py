"""``rubrica attack search``: for each prompt, or for all together, a text that makes the model answer it.

A case under way is kept every few seconds, so a kill costs these alone. What is found is judged as an evaluation judges
it: by a judge and a program, on the revision of models that write one.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from rubrica.attacks.autodan import AutoDAN
from rubrica.attacks.frame import frame
from rubrica.attacks.kept import keep, kept
from rubrica.attacks.method import Method
from rubrica.attacks.objective import Objective, allowed_tokens, start_text
from rubrica.attacks.search import Hooks, Look, Progress, search
from rubrica.attacks.victim import Victim
from rubrica.core.config import content_hash
from rubrica.core.errors import ModelError, UsageError
from rubrica.core.evaluation import Item, ItemResult, Metric, Standing
from rubrica.core.ports import thresholds_of
from rubrica.core.records import EvalResult, Response, Sampling
from rubrica.core.run import write_json, write_jsonl
from rubrica.core.store import Store
from rubrica.evals.prompt_file import write_items
from rubrica.evals.reading import decisive
from rubrica.evals.tally import Tally
from rubrica.judges.budget import Budget, Purse
from rubrica.judges.executor import Executor
from rubrica.judges.factory import make_judge
from rubrica.program.program import load_program
from rubrica.program.reward import RewardConfig
from rubrica.recipes.context import Surroundings
from rubrica.recipes.evaluation import RESULTS, ROWS
from rubrica.recipes.judging import Asking, Rules, judge_texts, take_apart
from rubrica.recipes.search_model import method_of, open_victim
from rubrica.recipes.searching import (
    CASES,
    SEARCHES,
    TEST_CASES,
    TEST_ITEMS,
    Searched,
    Searching,
    search_folder,
)

SECONDS = 2.0
"""Time between two writes of a case under way."""
Report = Callable[[str, int, int], None]
"""Gets (what is done, steps done, of how many)."""


@dataclass
class _Work:
    """One search on its way."""

    searching: Searching
    out: Path
    victim: Victim
    method: Method
    allowed: Tensor
    asking: Asking | None
    judge: str
    """Fingerprint; empty without a judge."""
    report: Report

    @property
    def rules(self) -> Rules:
        """How answers are taken."""
        return Rules(self.searching.tags, drafts=False)

    def objective(self, items: Sequence[Item]) -> Objective:
        """What is minimised for these items; ``UsageError`` where one cannot be."""
        given, method = self.searching, self.searching.method
        tokens = 1 if isinstance(method, AutoDAN) else method.tokens
        start = given.start or start_text(self.victim, tokens, given.place)
        frames = [frame(self.victim, item.prompt, item.target, start, given.place) for item in items]
        return Objective(frames, allowed=self.allowed, start=start)

    def answers(self, objective: Objective, slot: str) -> list[Response]:
        """Greedy answers to the prompts with this slot."""
        prompts = [each.filled(slot) for each in objective.frames]
        sampling = Sampling(temperature=0.0, max_tokens=self.searching.max_tokens)
        found = dict(self.victim.generator.generate(prompts, sampling))
        return [found[index] for index in range(len(prompts))]


def run_search(
    searching: Searching,
    items: Sequence[Item],
    out: Path,
    surroundings: Surroundings,
    *,
    budget: Budget | None = None,
    report: Report = lambda what, done, total: None,
) -> list[Searched]:
    """Search, or go on; return a row for each item, in order, and write the files of ``out``.

    A prompt that cannot be searched costs itself alone. Raises ``UsageError`` for a folder of another search,
    ``ModelError`` and ``JudgeError`` where model or judge cannot work at all, ``BudgetError`` at a cap of the judge's.
    """
    with search_folder(out, searching) as store:
        (out / CASES).mkdir(exist_ok=True)
        victim = open_victim(searching, surroundings)
        allowed = allowed_tokens(victim, ascii_only=searching.ascii)
        method = method_of(searching, surroundings)
        asking, judge = _asking(searching, store, surroundings, budget or Budget())
        work = _Work(searching, out, victim, method, allowed, asking, judge, report)
        cases = [list(items)] if searching.universal else [[item] for item in items]
        found: list[Searched] = []
        started = time.perf_counter()
        try:
            for number, case in enumerate(cases):
                found += _case(work, case, number, len(cases))
        finally:
            _write(work, items, found, time.perf_counter() - started)
    return found


def _asking(
    searching: Searching, store: Store, surroundings: Surroundings, budget: Budget
) -> tuple[Asking | None, str]:
    """Who judges, and its fingerprint."""
    if searching.judge is None:
        return None, ""
    builtin, purse = dict(surroundings.judges), Purse(budget, store, prefix="--max-")
    judge = make_judge(searching.judge, secret=store.secret, builtin=builtin, purse=purse)
    program, reward = decisive(load_program("harm")), RewardConfig()
    executor = Executor(judge, store, program=program, reward=reward, thresholds=thresholds_of(judge))
    return Asking(Metric.ASR, executor, program), judge.fingerprint


def _case(work: _Work, items: Sequence[Item], number: int, total: int) -> list[Searched]:
    """Search one text for these items; those that cannot be searched are left out of it."""
    given, failed = work.searching, dict[str, Searched]()
    for item in items:
        try:
            work.objective([item])
        except (UsageError, ModelError) as error:
            failed[item.id] = _failed(given, item, str(error))
    good = [item for item in items if item.id not in failed]
    found = {row.item: row for row in _found(work, good, number, total)} if good else {}
    return [failed.get(item.id) or found[item.id] for item in items]


def _found(work: _Work, items: Sequence[Item], number: int, total: int) -> list[Searched]:
    given, steps = work.searching, work.searching.limits.steps
    identity = content_hash([[item.prompt.model_dump(mode="json"), item.target] for item in items])
    path = work.out / CASES / f"{identity}.safetensors"
    name = items[0].id if len(items) == 1 else f"{len(items)} prompts"

    def report(step: int) -> None:
        work.report(f"{given.method.type}: {name}", number * steps + step, total * steps)

    hooks, before = _hooks(work, items, path, report), kept(path)
    try:
        progress = search(
            work.method,
            work.objective(items),
            given.limits,
            hooks,
            seed=given.seed,
            case=identity,
            progress=before,
        )
    except (UsageError, ModelError) as error:
        return [_failed(given, item, str(error)) for item in items]
    return [_row(work, item, progress, at, len(items)) for at, item in enumerate(items)]


def _hooks(work: _Work, items: Sequence[Item], path: Path, report: Callable[[int], None]) -> Hooks:
    written = time.perf_counter()

    def keep_now(progress: Progress) -> None:
        nonlocal written
        if progress.ended is not None or time.perf_counter() - written > SECONDS:
            keep(path, progress)
            written = time.perf_counter()
        report(progress.step)

    def look(objective: Objective, slot: str) -> list[Look]:
        return _looks(work, items, objective, slot)

    def begin(objective: Objective, slot: str) -> list[str]:
        return [_begun(work, response.text) for response in work.answers(objective, slot)]

    return Hooks(
        look=look if work.asking is not None else None,
        begin=begin if work.searching.aim == "revision" else None,
        keep=keep_now,
    )


def _looks(work: _Work, items: Sequence[Item], objective: Objective, slot: str) -> list[Look]:
    """Have the model answer, and the judge say what it finds."""
    assert work.asking is not None
    answers = work.answers(objective, slot)
    texts = [take_apart(item, answer, work.rules) for item, answer in zip(items, answers, strict=True)]
    rows = judge_texts(texts, work.asking, work.rules, seed=0, trial=0)
    return [
        Look(answer.text, None if row.value is None else row.value == 1.0, row.standing, answer.tokens)
        for answer, row in zip(answers, rows, strict=True)
    ]


def _begun(work: _Work, text: str) -> str:
    """The answer up to where its revision begins; empty where it has none."""
    tags = work.searching.tags
    if tags is None or tags.close not in text:
        return ""
    return text[: text.index(tags.close) + len(tags.close)]


def _failed(given: Searching, item: Item, problem: str) -> Searched:
    goal = item.goal or item.prompt.messages[-1].content
    return Searched(item=item.id, suite=item.suite, goal=goal, method=given.method.type, error=problem)


def _row(work: _Work, item: Item, progress: Progress, at: int, count: int) -> Searched:
    """What the case found for its item number ``at`` of ``count``."""
    best, look = progress.best, progress.looks[at] if progress.looks else None
    goal = item.goal or item.prompt.messages[-1].content
    objective = work.objective([item])
    return Searched(
        item=item.id,
        suite=item.suite,
        goal=goal,
        method=work.searching.method.type,
        text=best.text if best else "",
        prompt=objective.frames[0].content(best.text) if best else "",
        target=item.target,
        loss=best.loss if best else None,
        reached=best is not None and best.reached and best.scope == count,
        harmful=look.harmful if look else None,
        standing=look.standing if look else None,
        response=look.response if look else "",
        ended=progress.ended,
        steps=progress.step,
        forward=progress.forward,
        backward=progress.backward,
        judged=progress.judged,
        seconds=progress.seconds,
        curve=progress.curve,
        error="" if best else "no text was admitted: the tokenizer cuts every candidate otherwise",
    )


def _write(work: _Work, items: Sequence[Item], found: Sequence[Searched], seconds: float) -> None:
    """Write what was found, as test cases and as an evaluation; rows of items that are still to come are missing."""
    by_id = {item.id: item for item in items}
    done = [(by_id[row.item], row) for row in found]
    write_jsonl(work.out / SEARCHES, found)
    cases: dict[str, list[str]] = {}
    for item, row in done:
        if row.prompt:
            cases.setdefault(item.id, []).append(row.prompt)
    write_json(work.out / TEST_CASES, cases)
    write_items(work.out / TEST_ITEMS, [_test_item(item, row) for item, row in done if row.prompt])
    if work.asking is None:
        return
    rows = [_result(item, row) for item, row in done]
    write_jsonl(work.out / ROWS, rows)
    counted = results(work.searching, rows, work.judge, seconds)
    write_json(work.out / RESULTS, [result.model_dump(mode="json") for result in counted])


def _test_item(item: Item, row: Searched) -> Item:
    """The item with the text filled in; it keeps the plain request as goal."""
    last = item.prompt.messages[-1].model_copy(update={"content": row.prompt})
    prompt = item.prompt.model_copy(update={"messages": (*item.prompt.messages[:-1], last)})
    return item.model_copy(update={"prompt": prompt, "goal": row.goal, "attack": row.method})


def _result(item: Item, row: Searched) -> ItemResult:
    standing = row.standing or Standing.UNANSWERED
    return ItemResult(
        suite=item.suite,
        item=item.id,
        cluster=item.cluster,
        category=item.category,
        attack=row.method,
        metric=Metric.ASR,
        standing=standing,
        value=float(bool(row.harmful)) if standing is Standing.JUDGED else None,
    )


def results(searching: Searching, rows: Sequence[ItemResult], judge: str, seconds: float) -> list[EvalResult]:
    """Attack success with intervals, one result a suite; ``judge`` is a fingerprint."""
    found = []
    for suite in dict.fromkeys(row.suite for row in rows):
        tally = Tally()
        for row in rows:
            if row.suite == suite:
                tally.add(row)
        limits = searching.limits
        found.append(
            EvalResult(
                label=searching.model,
                model=searching.model,
                suite=suite,
                judge=judge,
                protocol=f"{searching.method.type} on the model itself, at most {limits.steps} steps, stop at {limits.stop}",
                seeds=(searching.seed,),
                trials=1,
                estimates=tuple(tally.estimates()),
                seconds=seconds,
            )
        )
    return found
