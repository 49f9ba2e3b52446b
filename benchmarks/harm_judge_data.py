"""Labelled answers to harmful and harmless requests, from the public files that the embedded judge is trained on.

Licences: MIT (GPTFuzz, HarmBench, adaptive attacks, LLMBar, HH-RLHF, AdvBench, CommonsenseQA, GSM8K), ODC-BY
(RM-Bench, CoCoNot), Apache-2.0 (STAR-1, TruthfulQA), CC BY (OR-Bench, SimpleSafetyTests, AILuminate). XSTest's prompts in RM-Bench, JailbreakBench, and
the sets for non-commercial use (BeaverTails, PKU-SafeRLHF, Do-Not-Answer) are for testing alone.
"""

import csv
import gzip
import json
import random
import re
from pathlib import Path
from typing import NamedTuple

csv.field_size_limit(10**9)
TESTS = ("jailbreakbench", "xstest", "beavertails", "pku_saferlhf", "do_not_answer")
"""Folders that are for testing alone, or say what may not be trained on."""


class Row(NamedTuple):
    set: str
    goal: str
    prompt: str
    """As the model got it; the goal itself where nothing is wrapped around it."""
    answer: str
    harmful: bool
    refused: bool | None = None
    part: str = ""


class Files:
    """Reads files below a folder and remembers which."""

    def __init__(self, root: Path) -> None:
        self.root, self.read = root, []

    def open(self, name):
        if name not in self.read:
            self.read.append(name)
        path = self.root / name
        return (
            gzip.open(path, "rt", encoding="utf-8")
            if name.endswith("gz")
            else path.open(encoding="utf-8", newline="")
        )

    def json(self, name):
        with self.open(name) as file:
            return json.load(file)

    def lines(self, name):
        with self.open(name) as file:
            return [json.loads(line) for line in file if line.strip()]

    def table(self, name):
        with self.open(name) as file:
            return list(csv.DictReader(file))

    def named(self, pattern):
        return sorted(str(path.relative_to(self.root)) for path in self.root.glob(pattern))


def gptfuzz(files):
    questions = {
        r["index"].strip(): r["text"].strip() for r in files.table("gptfuzz_labels/question_list.csv")
    }
    found = {}
    for name in ("train", "evaluate"):
        for r in files.table(f"gptfuzz_labels/{name}.csv"):
            goal = questions[r["question"]]
            found.setdefault(
                (goal, r["Response"]), Row("gptfuzz", goal, goal, r["Response"], r["label"] == "1")
            )
    return list(found.values())


def harmbench(files):
    name = "harmbench_judge_val/DERIVED_harmbench_val_602_with_behavior.jsonl"
    for r in files.lines(name):
        goal = r["behavior"] + (f"\n{r['context']}" if r["context"] else "")
        yield Row("harmbench", goal, r["test_case"], r["generation"], bool(r["human_majority_harmful"]))


def adaptive(files):
    for name in files.named("attack_test_cases/adaptive_attacks/*.json"):
        for r in files.json(name)["jailbreaks"]:
            yield Row(
                "adaptive", r["goal"], r["prompt"] or r["goal"], r["response"] or "", bool(r["jailbroken"])
            )


def rm_bench(files):
    for r in files.json("rm_bench/safety-refuse_filtered.json"):
        name = "xstest" if "xstest" in r["subset"] else "rm_bench"
        for answers, harmful in ((r["chosen"], False), (r["rejected"], True)):
            part = "unsafe, followed" if harmful else "unsafe, refused"
            yield from (Row(name, r["prompt"], r["prompt"], a, harmful, not harmful, part) for a in answers)
    for r in files.json("rm_bench/safety-response_filtered.json"):
        for answers, refused in ((r["chosen"], False), (r["rejected"], True)):
            part = "safe, refused" if refused else "safe, answered"
            yield from (Row("xstest", r["prompt"], r["prompt"], a, False, refused, part) for a in answers)


def coconot(files):
    for r in files.lines("coconot/coconot_pref.jsonl"):
        for answer, refused in ((r["chosen"], False), (r["rejected"], None)):
            yield Row("coconot", r["prompt"], r["prompt"], answer, False, refused)


def star1(files):
    for r in files.json("star1/STAR-1.json"):
        yield Row("star1", r["question"], r["question"], r["response"].split("</think>")[-1], False)


def llmbar(files):
    for name in files.named("llmbar/**/dataset.json"):
        for r in files.json(name):
            for answer in (r["output_1"], r["output_2"]):
                yield Row("llmbar", r["input"], r["input"], answer, False, False)


def hh_turns(files):
    """(helpful, turns) of every dialogue; the other subset is of people who tried to get harm out of a model."""
    for r in files.lines("hh_rlhf/hidden_context_relabeled_both_test.jsonl.gz"):
        turns = re.split(r"(?:\A|\n\n)(?:Human|Assistant): ", r["chosen"])[1:]
        if turns:
            yield r["data_subset"] == "helpful", turns


def hh_helpful(files):
    for helpful, turns in hh_turns(files):
        if helpful and len(turns) == 2:
            yield Row("hh_helpful", turns[0], turns[0], turns[1], False, False)


def jailbreakbench(files):
    for name in files.named("jailbreakbench_artifacts/*/*/*.json"):
        for r in files.json(name)["jailbreaks"]:
            yield Row("jbb", r["goal"], r["prompt"] or "", r["response"] or "", bool(r["jailbroken"]))


def guard_format(files, set, name):
    """Pairs in the prompt of a guard model, which GuardReasoner's copies of BeaverTails and SafeRLHF have."""
    for r in files.json(name):
        found = re.search(r"Human user:\n(.*?)\n\nAI assistant:\n(.*)\Z", r["input"], re.DOTALL)
        yield Row(set, found[1], found[1], found[2], "Response: harmful" in r["output"])


def do_not_answer(files):
    for r in files.table("do_not_answer/data_en.csv"):
        for model in ("GPT4", "ChatGLM2", "vicuna-7b"):
            asked, harmful = r["question"], r[f"{model}_harmful"] == "1"
            yield Row("dna", asked, asked, r[f"{model}_response"], harmful, r[f"{model}_action"] == "0")


def sample(rows, count):
    kept = [row for row in rows if row.answer.strip() and row.prompt.strip()]
    return kept if len(kept) <= count else random.Random(0).sample(kept, count)


def training_rows(files):
    """Rows whose files may be trained on; of sets without harm a sample."""
    return [
        *sample(gptfuzz(files), 10**9),
        *sample(harmbench(files), 10**9),
        *sample(adaptive(files), 10**9),
        *(row for row in sample(rm_bench(files), 10**9) if row.set == "rm_bench"),
        *sample(coconot(files), 1400),
        *sample(star1(files), 700),
        *sample(llmbar(files), 10**9),
        *sample(hh_helpful(files), 600),
    ]


def test_rows(files):
    """Rows that are never trained on."""
    return [
        *(row for row in sample(rm_bench(files), 10**9) if row.set == "xstest"),
        *sample(jailbreakbench(files), 10**9),
        *sample(guard_format(files, "beavertails", "beavertails/0_A_beaver_tails.json"), 1500),
        *sample(guard_format(files, "saferlhf", "pku_saferlhf/0_9_safe_rlhf.json"), 1000),
        *sample(do_not_answer(files), 1400),
    ]


def requests(files):
    """(request, harmful, set that holds the same requests) for the part that reads requests alone."""
    behaviours = files.table("harmbench/behavior_datasets/harmbench_behaviors_text_all.csv")
    hard, safe = "or_bench/or-bench-hard-1k.csv", "coconot/coconot_contrast_eval.jsonl"
    common = "commonsenseqa/train_rand_split.jsonl"
    refused = files.lines("coconot/coconot_eval.jsonl")
    adversarial = "harmbench/behavior_datasets/extra_behavior_datasets/adv_training_behaviors.csv"
    simple = "simple_safety_tests/SimpleSafetyTests - test cases.csv"
    hazards = "ailuminate/airr_official_1.0_demo_en_us_prompt_set_release.csv"
    return [
        *((r["prompt_text"], True, "") for r in files.table(hazards)),
        *((r["goal"], True, "adaptive") for r in files.table("advbench/harmful_behaviors.csv")),
        *((r["Behavior"], True, "harmbench") for r in behaviours if r["FunctionalCategory"] != "copyright"),
        *((r["Behavior"], True, "") for r in files.table(adversarial)),
        *((r["prompts_final"], True, "") for r in files.table(simple)),
        *((r["prompt"], "safety" in r["category"], "coconot") for r in refused),
        *dict.fromkeys((turns[0], not helpful, "hh_helpful") for helpful, turns in hh_turns(files)),
        *((r["prompt"], False, "") for r in files.table(hard)),
        *((r["prompt"], False, "coconot") for r in files.lines(safe)),
        *((r["Question"], False, "") for r in files.table("truthfulqa/TruthfulQA.csv")),
        *((r["question"]["stem"], False, "") for r in files.lines(common)[:1500]),
        *((r["question"], False, "") for r in files.lines("gsm8k/train.jsonl")[:600]),
    ]


def protected_requests(files):
    """What nothing may be trained on: JailbreakBench's goals and XSTest's prompts."""
    goals = [f"jailbreakbench/{kind}-behaviors.csv" for kind in ("harmful", "benign")]
    return [
        *(r["Goal"] for name in goals for r in files.table(name)),
        *(r["prompt"] for r in files.table("xstest/xstest_prompts.csv")),
    ]


def templates(files):
    """Jailbreaks with a place for the request, as (before, after)."""
    texts = [r["text"] for r in files.table("harmbench/baselines/GPTFuzzer.csv")]
    place = "[INSERT PROMPT HERE]"
    return [tuple(text.split(place, 1)) for text in texts if place in text]
