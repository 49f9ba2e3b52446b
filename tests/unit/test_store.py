"""The store on real SQLite files: what is kept, what is asked again, kills, other processes, damage."""

import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from rubrica.core.errors import StorageError, UsageError
from rubrica.core.prompts import Message, Prompt
from rubrica.core.records import Label, Outcome, Verdict
from rubrica.core.store import SCHEMA_VERSION, Store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.sqlite"


def answered(id="q", label=Label.A, **fields):
    return Verdict(question_id=id, outcome=Outcome.ANSWERED, label=label, **fields)


def prompt(id, text="hello"):
    return Prompt(id=id, messages=(Message(role="user", content=text),))


# --- verdicts -----------------------------------------------------------------------------------


def test_verdicts_survive_a_reopening_unchanged(path):
    kept = {
        "a": answered(probabilities={Label.A: 0.75, Label.NA: 0.25}, reason="é \u2028 \x00", seconds=0.125),
        "b": Verdict(question_id="q", outcome=Outcome.NOT_APPLICABLE, label=Label.NA, judge="j"),
        "c": Verdict(question_id="q", outcome=Outcome.ABSTAINED, reason="cannot tell"),
    }
    with Store(path) as store:
        for key, verdict in kept.items():
            store.put_verdict(key, verdict)
    with Store(path) as store:
        assert store.verdicts(["a", "b", "c", "none"]) == kept


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.UNPARSEABLE, Outcome.SKIPPED])
def test_a_failure_is_logged_and_never_reused(path, outcome):
    with Store(path) as store:
        store.put_verdict("k", Verdict(question_id="q", outcome=outcome))
        store.put_verdict("k", Verdict(question_id="q", outcome=outcome))
        assert store.verdicts(["k"]) == {}
        assert store.count_verdicts() == (0, 2)
        store.put_verdict("k", answered())
        assert store.verdicts(["k"]) == {"k": answered()}
        assert store.count_verdicts() == (1, 2)


def test_many_keys_are_found_in_parts(path):
    with Store(path) as store:
        with store.batch():
            for i in range(1234):
                store.put_verdict(f"k{i}", answered(reason=str(i)))
        found = store.verdicts([f"k{i}" for i in range(0, 2000)])
    assert {key: int(v.reason) for key, v in found.items()} == {f"k{i}": i for i in range(1234)}


# --- records ------------------------------------------------------------------------------------


def test_records_by_kind_stage_and_step(path):
    with Store(path) as store:
        for step, id in ((2, "b"), (10, "a"), (1, "z")):
            store.put("prompt", id, prompt(id), stage="grpo", step=step)
        store.put("prompt", "a", prompt("other"), stage="sft")
        store.put("response", "a", prompt("not a response"))
        assert [p.id for p in store.all("prompt", Prompt, stage="grpo")] == ["z", "b", "a"]
        assert [p.id for p in store.all("prompt", Prompt)] == ["other", "z", "b", "a"]
        assert [p.id for p in store.all("prompt", Prompt, step=10)] == ["a"]
        assert store.get("prompt", "a", Prompt, stage="sft") == prompt("other")
        assert store.get("prompt", "a", Prompt) is None
        store.put("prompt", "a", prompt("a", "again"), stage="grpo", step=3)
        assert [p.id for p in store.all("prompt", Prompt, stage="grpo")] == ["z", "b", "a"]
        assert store.forget("prompt", stage="grpo", after_step=1) == 2
        assert [p.id for p in store.all("prompt", Prompt)] == ["other", "z"]


def test_a_record_of_another_shape_is_named(path):
    with Store(path) as store:
        store.put("prompt", "a", prompt("a"))
        with pytest.raises(StorageError, match="a prompt record does not fit this version"):
            store.all("prompt", Verdict)


# --- batches, crashes, other processes ------------------------------------------------------------


def test_an_exception_inside_a_batch_keeps_what_was_written(path):
    with Store(path) as store:
        with pytest.raises(KeyboardInterrupt), store.batch(), store.batch():
            store.put_verdict("a", answered())
            raise KeyboardInterrupt
        store.put_verdict("b", answered())
    with Store(path) as store:
        assert set(store.verdicts(["a", "b"])) == {"a", "b"}


def test_a_reader_sees_committed_batches_only_and_never_blocks(path):
    with Store(path) as writer, Store(path, read_only=True) as reader:
        with writer.batch():
            writer.put_verdict("a", answered())
            assert reader.verdicts(["a"]) == {}
        assert set(reader.verdicts(["a"])) == {"a"}


def test_a_read_only_store_refuses_writes(path):
    Store(path).close()
    with Store(path, read_only=True) as store, pytest.raises(StorageError, match="readonly"):
        store.put_verdict("a", answered())


def test_threads_share_one_store(path):
    with Store(path) as store:

        def work(name):
            for i in range(50):
                with store.batch():
                    store.put_verdict(f"{name}{i}", answered())

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.count_verdicts() == (200, 0)


WRITER = """
import sys
from rubrica.core.records import Label, Outcome, Verdict
from rubrica.core.store import Store
store = Store(sys.argv[1])
for i in range(10**6):
    with store.batch():
        store.put_verdict(f"k{i}", Verdict(question_id="q", outcome=Outcome.ANSWERED, label=Label.A))
        store.put_verdict(f"l{i}", Verdict(question_id="q", outcome=Outcome.ANSWERED, label=Label.B))
    print(i, flush=True)
"""


def test_kill_9_keeps_every_committed_batch_whole(path):
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        reported = [int(process.stdout.readline()) for _ in range(40)][-1]
        process.send_signal(signal.SIGKILL)
    with Store(path) as store:
        count, _ = store.count_verdicts()
        assert count % 2 == 0
        assert count >= 2 * (reported + 1)
        assert len(store.verdicts([f"k{i}" for i in range(reported + 1)])) == reported + 1


# --- opening --------------------------------------------------------------------------------------


def test_the_secret_is_made_once(path, tmp_path):
    with Store(path) as store:
        secret = store.secret
        assert len(bytes.fromhex(secret)) == 16
    with Store(path) as again, Store(tmp_path / "other.sqlite") as other:
        assert again.secret == secret != other.secret


def test_stores_that_cannot_be_opened(tmp_path, path):
    with pytest.raises(UsageError, match="no store here"):
        Store(path, read_only=True)
    with pytest.raises(StorageError, match="check the path"):
        Store(tmp_path / "none" / "store.sqlite")
    path.write_text("this is no database, whatever its name says" * 50)
    with pytest.raises(StorageError, match="no Rubrica store, or it is damaged"):
        Store(path)


def test_a_newer_schema_is_refused(path):
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (str(SCHEMA_VERSION + 1),))
    db.close()
    with pytest.raises(UsageError, match="newer Rubrica"):
        Store(path)


def test_a_damaged_verdict_is_named(path):
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO verdicts VALUES('k', '{\"question_id\": 1}', 0)")
    db.close()
    with Store(path) as store, pytest.raises(StorageError, match="a verdict record does not fit"):
        store.verdicts(["k"])


READER = """
import os, sys
from rubrica.core.store import Store
if os.geteuid() == 0:  # root may write anywhere
    os.setuid(65534)
print(Store(sys.argv[1], read_only=True).count_verdicts())
"""


def test_a_finished_run_is_readable_in_a_directory_that_cannot_be_written():
    """Another user's run, a read-only mount: SQLite cannot make its shared-memory file there."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.sqlite"
        with Store(path) as store:
            store.put_verdict("a", answered())
        Path(folder).chmod(0o555)
        try:
            done = subprocess.run([sys.executable, "-c", READER, str(path)], capture_output=True, text=True)
        finally:
            Path(folder).chmod(0o755)
    assert done.stdout.strip() == "(1, 0)", done.stderr
