"""What one repeated attack is."""

from pathlib import Path

from pydantic import Field

from rubrica.core.attempt import Tags
from rubrica.core.base import NonEmpty
from rubrica.core.config import Json
from rubrica.core.records import Sampling
from rubrica.judges.factory import JudgeConfig, judge_identity
from rubrica.recipes.options import ModelSource
from rubrica.recipes.settings import Settings

TRIES, BROKEN, CURVE = "tries.jsonl", "broken.jsonl", "curve.json"
"""Files of a repeated attack, beside evaluation.yaml, environment.json and store.sqlite."""
PAPER_TEMPERATURE = 1.0
"""Hughes et al. 2024 (arXiv 2412.03556), section 3."""


class Repeating(Settings):
    """Which model is attacked, with what, how often, and who judges its answers."""

    model: ModelSource
    input: NonEmpty
    """A file of prompts, or the name of a suite."""
    data: Path | None = None
    """Folder of the suites' files."""
    limit: int | None = Field(default=None, ge=1)
    """First prompts only."""
    attack: NonEmpty = "best-of-n(n=1)"
    """Drawn anew for every try; ``direct``: only the answers differ."""
    tries: int = Field(default=64, ge=1, le=100_000)
    """Most tries at a request."""
    full: bool = False
    """Make all tries at every request, instead of ending with the first success."""
    judge: str | JudgeConfig
    program: NonEmpty = "harm"
    tags: Tags | None = None
    """Tags of models that draft, reflect and revise; None: they answer plainly."""
    system: str = ""
    sampling: Sampling = Sampling(temperature=PAPER_TEMPERATURE, max_tokens=512)

    @property
    def identity(self) -> dict[str, Json]:
        """What must stay the same in one folder; more tries, all of them, and more requests may join."""
        kept: dict[str, Json] = self.model_dump(
            mode="json", exclude={"data", "limit", "tries", "full", "judge"}
        )
        judge = self.judge if isinstance(self.judge, str) else self.judge.model_dump(mode="json")
        return kept | {"judge": judge_identity(judge)}
