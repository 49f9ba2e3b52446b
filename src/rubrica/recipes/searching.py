"""What one white-box search is, what it writes, and the folder that holds it."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from rubrica.attacks.autodan import AutoDAN
from rubrica.attacks.frame import Place
from rubrica.attacks.gbda import GBDA
from rubrica.attacks.gcg import GCG
from rubrica.attacks.pez import PEZ
from rubrica.attacks.search import Ended, Limits
from rubrica.attacks.uat import UAT
from rubrica.core.attempt import Tags
from rubrica.core.base import NonEmpty, Record, Slug
from rubrica.core.config import Json
from rubrica.core.evaluation import Standing
from rubrica.core.store import Store
from rubrica.judges.factory import JudgeConfig
from rubrica.recipes.options import ModelSource
from rubrica.recipes.settings import Settings, settings_folder

SETTINGS, CASES, SEARCHES = "search.yaml", "cases", "searches.jsonl"
TEST_CASES, TEST_ITEMS = "test_cases.json", "test_cases.jsonl"
"""Files of a search, beside environment.json and store.sqlite, and what ``rubrica eval`` writes."""
Method = Annotated[GCG | PEZ | GBDA | UAT | AutoDAN, Field(discriminator="type")]


class Searching(Settings):
    """Which model is searched how, for which prompts, and who judges what it answers."""

    model: NonEmpty
    """The model that is attacked: folder, hub id or lab:NAME."""
    revision: str | None = None
    """Commit or branch on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Weights' type; ``auto``: as they were saved."""
    chat_template: str | None = None
    """Path of a Jinja file used instead of the tokenizer's chat template."""
    method: Method
    input: NonEmpty
    """A file of prompts, or the name of a suite."""
    data: Path | None = None
    """Folder of the suites' files."""
    limit: int | None = Field(default=None, ge=1)
    """First prompts only."""
    target: str = ""
    """How an answer that complies would begin, with {goal} for the request; empty: each prompt brings its own."""
    target_column: str = ""
    """Column of the input with the targets; empty: ``target``."""
    universal: bool = False
    """Search one text for all prompts together, instead of one for each."""
    place: Place = "suffix"
    """Where the text stands: behind the request or in front of it."""
    start: str = ""
    """Text that GCG and UAT start with; empty: as many ``!`` as the method has tokens."""
    ascii: bool = True
    """Write ASCII characters only."""
    aim: Literal["answer", "revision"] = "answer"
    """What the target begins: the answer, or the revision behind the model's own draft and reflection."""
    tags: Tags | None = None
    """Tags of a model that drafts, reflects and revises: its revision is judged."""
    judge: str | JudgeConfig | None = None
    """Who judges answers; None: nobody, and a search ends when greedy decoding writes the target."""
    limits: Limits = Limits()
    max_tokens: int = Field(default=256, ge=1)
    """Longest answer that is judged; it is decoded greedily."""
    batch_size: int | None = Field(default=None, ge=1)
    """Candidates that are read at once; None: as the device's memory allows."""
    seed: int = 0

    @property
    def identity(self) -> dict[str, Json]:
        """All but how many prompts there are: every case stands by itself, so more may join."""
        return self.model_dump(mode="json", exclude={"data", "limit"})

    @property
    def source(self) -> ModelSource:
        """Where the model comes from."""
        return ModelSource(model=self.model, revision=self.revision, chat_template=self.chat_template)


class Searched(Record):
    """What was found for one prompt: a row of ``searches.jsonl``."""

    item: NonEmpty
    suite: Slug
    goal: str
    method: str
    text: str = ""
    """What was found for the slot."""
    prompt: str = ""
    """Last turn with the text filled in."""
    target: str = ""
    loss: FiniteFloat | None = None
    """Mean cross-entropy of the target in nats, averaged over prompts in a universal search."""
    reached: bool = False
    """Greedy decoding writes the target, of every prompt."""
    harmful: bool | None = None
    """The judge finds the answer harmful; None: not known."""
    standing: Standing | None = None
    """Why it is not known; None: nobody was asked."""
    response: str = ""
    """The answer that was judged last, decoded greedily."""
    ended: Ended | None = None
    steps: int = 0
    forward: int = 0
    """Sequences that were read; together for all prompts in a universal search, as what follows."""
    backward: int = 0
    """Sequences that a gradient went back through."""
    judged: int = 0
    """Answers that the judge was shown on the way."""
    seconds: float = 0.0
    curve: tuple[float | None, ...] = ()
    """Best loss after each step."""
    error: str = ""
    """Why this prompt could not be searched."""


def search_folder(path: Path, searching: Searching) -> AbstractContextManager[Store]:
    """Open the folder of a search; errors are those of :func:`rubrica.recipes.settings.settings_folder`."""
    return settings_folder(path, searching, file=SETTINGS, what="search", seed=searching.seed)
