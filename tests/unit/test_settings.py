"""The folder of a piece of work: who may go on in it."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from rubrica.cli import main
from rubrica.core.config import Json
from rubrica.core.errors import UsageError
from rubrica.core.run import claim
from rubrica.core.store import Store
from rubrica.recipes.settings import Settings, settings_folder


class Digging(Settings):
    depth: int = 1

    @property
    def identity(self) -> dict[str, Json]:
        return {"depth": self.depth}


class Found(BaseModel):
    text: str = "gold"


def opened(path: Path, depth: int):
    return settings_folder(path, Digging(depth=depth), file="dig.yaml", what="hole", seed=0)


def test_settings_under_which_nothing_was_done_may_change(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such spade"), opened(tmp_path, 1) as store:
        store.put("asked", "", Found())  # who will be asked, and what it costs: no answer yet
        (tmp_path / "cases").mkdir()
        raise UsageError("no such spade")
    with opened(tmp_path, 2) as store:
        assert store.kinds() == set(), "nothing of the other settings is left"
    assert (tmp_path / "dig.yaml").read_text().strip() == "depth: 2"


@pytest.mark.parametrize("what", ["record", "file", "case"])
def test_work_belongs_to_its_settings(tmp_path: Path, what: str) -> None:
    with opened(tmp_path, 1) as store:
        if what == "record":
            store.put("response", "a", Found())
        else:
            path = tmp_path / ("found.jsonl" if what == "file" else "cases/a")
            path.parent.mkdir(exist_ok=True)
            path.write_text("{}\n")
    with pytest.raises(UsageError, match=r"holds another hole \(depth was 1, is 2\)"), opened(tmp_path, 2):
        pass
    with opened(tmp_path, 1) as store:
        assert store.holds("response") is (what == "record")


def test_settings_do_not_change_under_somebody_at_work(tmp_path: Path) -> None:
    with opened(tmp_path, 1):
        pass
    with claim(tmp_path), pytest.raises(UsageError, match="another process is at work"), opened(tmp_path, 2):
        pass
    assert (tmp_path / "dig.yaml").read_text().strip() == "depth: 1"


@pytest.mark.parametrize("command", ["repeat", "search"])
def test_a_misspelt_model_does_not_occupy_the_folder(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    given = [
        "attack",
        command,
        "--input",
        "lab-harmful",
        "--limit",
        "1",
        "--out",
        str(out),
        "--max-tokens",
        "8",
    ]
    given += ["--method", "pez", "--steps", "1"] if command == "search" else ["--tries", "1"]
    codes = []
    for model in ("lab:startr", "lab:starter", "lab:teacher"):
        with pytest.raises(SystemExit) as left:
            main([*given, "--model", model])
        codes.append(left.value.code)
    assert codes == [2, 0, 2]
    said = " ".join(capsys.readouterr().err.split())
    assert "did you mean 'starter'?" in said and 'was "lab:starter", is "lab:teacher"' in said
    with Store(out / "store.sqlite", read_only=True) as store:
        assert any(store.count_verdicts())
