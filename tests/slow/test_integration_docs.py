"""The examples of docs/serve.md and docs/integrations are run as they stand, against `rubrica serve --judge lab`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PEERS = Path(os.environ.get("RUBRICA_PEERS", ROOT / ".peers"))
OURS = ("serve", "integrations/trl", "integrations/verl", "integrations/openrlhf")
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    words = [
        "--program",
        "lab",
        "--judge",
        "lab",
        "--out",
        str(tmp_path_factory.mktemp("rewards")),
        "--port",
        "0",
    ]
    child = subprocess.Popen(
        [sys.executable, "-m", "rubrica", "serve", *words, "--json"], stdout=subprocess.PIPE, text=True
    )
    said = ""
    while not said.rstrip().endswith("}"):
        line = child.stdout.readline()
        assert line, "the server did not start"
        said += line
    yield json.loads(said)["url"]
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 0


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    return [code for found, code in BLOCK.findall(text) if found == language]


def run(python: Path | str, page: str, place: Path, url: str) -> str:
    """Run the page's blocks in one go; return what they print."""
    script = place / "example.py"
    script.write_text("\n\n".join(blocks(page, "python")))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "RUBRICA_URL": url}
    environment.pop("RUBRICA_API_KEY", None)
    done = subprocess.run(
        [python, script], cwd=place, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("page", OURS)
def test_examples_run(page, tmp_path, url):
    said = run(sys.executable, page, tmp_path, url)
    assert re.search(r"-?\d\.\d", said), said


def test_the_example_for_verifiers_runs(tmp_path, url):
    python = PEERS / "bin/python"
    if not python.exists():
        pytest.skip(f"{PEERS}: no environment with verifiers; tests/peers/install.sh makes one")
    assert "rubrica/text/total" in run(python, "integrations/verifiers", tmp_path, url)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_call_with_curl_gets_two_rewards(url):
    [call] = [code for code in blocks("serve", "sh") if code.startswith("curl")]
    done = subprocess.run(
        ["bash", "-c", call.replace("localhost:8700", url)], capture_output=True, text=True, timeout=60
    )
    results = json.loads(done.stdout)["results"]
    assert [result["malformed"] for result in results] == [None, None]
    assert all(isinstance(result["reward"], float) for result in results)
