"""Files that may hold anything: records, checkpoints, data. Verdicts: "" or what was lost."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from clbench.cli.main import main
from clbench.data.own_streams import read_stream
from clbench.data.sources import load_tasks
from clbench.errors import ClbenchError
from clbench.records.answers import answer_bytes, answers_path
from tests.conftest import REFERENCE
from tests.records.test_bad_files import write_good
from tests.records.test_fuzz import VALUES, changed, places
from tests.torture.children import FileEvents, die, run
from tests.torture.scene import Scene, as_json, fault

PAGE = "page"  # in its place a file beside the records
COMMANDS = (
    ("leaderboard", "--format", "json"),
    ("leaderboard", "--significance", "--format", "json"),
    ("compare",),
    ("show", "bad"),
    ("rescore", "bad"),
    ("report", "-o", PAGE),
    ("doctor",),
)


def bad_records(scene: Scene, chance: random.Random, count: int) -> Iterator[str]:
    """Put anything into any place of a record, or any bytes; then give a command that reads it and a good one beside it."""
    source = next(REFERENCE.glob("*_rkif_*_s1_*.json"))
    content, stored = json.loads(source.read_text("utf-8")), answer_bytes(answers_path(source))
    every = sorted(places(content), key=str)
    for number in range(count):
        folder = scene.new_folder()
        folder.mkdir()
        write_good(folder)
        data = json.dumps(changed(content, chance.choice(every), chance.choice(VALUES))).encode()
        data, answers = (mutated(data, chance), stored) if number % 3 == 1 else (data, stored)
        if number % 3 == 2:
            data, answers = json.dumps(content).encode(), mutated(stored, chance)
        (folder / "bad.json").write_bytes(data)
        (folder / "bad.answers.jsonl").write_bytes(answers)
        command, output = COMMANDS[number % len(COMMANDS)], folder.with_suffix(".out")
        command = tuple(str(folder.with_suffix(".html")) if word == PAGE else word for word in command)
        words = [*command, str(folder)] if command[0] == "doctor" else [*command, "--results", str(folder)]
        ending = run(lambda words=words: main(words), output, patience=60)  # type: ignore[misc]
        wrong = fault(ending, (0, 1, 2) if command[0] == "doctor" else (0, 2))
        if not wrong and "json" in command:
            good = [row for row in as_json(output) if row["method"] == "seqlora"] if ending.code == 0 else []
            wrong = "" if good else f"the good record beside it is not shown: {ending.errors}"
        if not wrong:
            shutil.rmtree(folder)
            output.unlink()
        yield f"{folder.name}: {' '.join(command)}: {wrong}" if wrong else ""


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return bytes with one change: a bit, a byte, a piece that is cut out, zeroed, doubled or added, an end that is missing."""
    at = chance.randrange(len(data))
    end = min(len(data), at + chance.choice([1, 4, 64, 4096]))
    piece = data[at:end]
    match chance.randrange(7):
        case 0:
            return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        case 1:
            return data[:at] + chance.randbytes(len(piece)) + data[end:]
        case 2:
            return data[:at] + data[end:]
        case 3:
            return data[:at] + bytes(len(piece)) + data[end:]
        case 4:
            return data[:end] + piece + data[end:]
        case 5:
            return data[:at]
        case _:
            return data + chance.randbytes(chance.choice([1, 8, 4096]))


def bad_checkpoints(scene: Scene, chance: random.Random, count: int) -> Iterator[str]:
    """Change a checkpoint in one place: it is refused in one line, or what was changed had no meaning and the run is right."""
    mine, others = _checkpoints(scene, chance)
    whole = mine.read_bytes()
    for number in range(count):
        folder = scene.new_folder()
        folder.mkdir()
        other = number % 20 == 19
        (folder / mine.name).write_bytes(others.read_bytes() if other else mutated_at_any_scale(whole, chance))
        ending = run(scene.command(folder))
        wrong = fault(ending)
        if not wrong and ending.code == 0:
            wrong = scene.differs(folder) and f"silently wrong: {scene.differs(folder)}"
        elif not wrong and "checkpoint" not in ending.errors:
            wrong = f"the checkpoint is not named: {ending.errors}"
        elif not wrong and list(folder.glob("*.json")):
            wrong = "a record was made of it"
        if not wrong:
            shutil.rmtree(folder)
        yield f"{folder.name}: {wrong}" if wrong else ""


def mutated_at_any_scale(data: bytes, chance: random.Random) -> bytes:
    """Return a changed file; as often in its header, which is small, as in its tensors."""
    if chance.random() < 0.5:
        return mutated(data, chance)
    size = 8 + int.from_bytes(data[:8], "little")
    return mutated(data[:size], chance) + data[size:]


def _checkpoints(scene: Scene, chance: random.Random) -> tuple[Path, Path]:
    """Return the checkpoints of seeds 1 and 2, each of which was killed after its first task."""
    found = []
    for one in (1, 2):
        folder, at = scene.new_folder(), scene.events
        while True:  # kill at an ever earlier event until there is a checkpoint
            folder = scene.new_folder()

            def act(folder: Path = folder, at: int = at, one: int = one) -> None:
                FileEvents(folder, at, die)
                scene.command(folder, seeds=f"{one},")()

            run(act)
            paths = list(folder.glob("*.checkpoint"))
            if paths:
                found.append(paths[0])
                break
            at -= 1
    return found[0], found[1]


ODD_TEXT = st.one_of(
    st.text(max_size=30),
    st.sampled_from(
        ["", " ", "\0", "\ud800", "[/]", "\x1b[2J", "</s>", "<extra_id_0>", "{x}", "x" * 200_000, "\u2028", "naïve"]
    ),
)
ODD_VALUE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), ODD_TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(ODD_TEXT, inner, max_size=2)),
    max_leaves=4,
)
PLAIN_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=30)


def _row(value: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"x": value, "y": value})


ROWS = st.one_of(
    st.tuples(st.just("plain"), st.lists(_row(PLAIN_TEXT), min_size=1, max_size=6)),
    st.tuples(st.just("odd"), st.lists(st.one_of(_row(ODD_VALUE), ODD_VALUE), max_size=5)),
)
CASES = st.tuples(
    ROWS, st.sampled_from(["json", "jsonl", "csv", "tsv", "parquet"]), st.integers(0, 1 << 32), st.booleans()
)


def data_fuzz(scene: Scene, chance: random.Random, count: int) -> Iterator[str]:
    """Read data of every format with anything in it (hypothesis): rows that were written rightly come back, in their order."""
    for number, ((kind, rows), form, salt, damage) in enumerate(_draw(CASES, count, chance.randrange(1 << 32))):
        folder = scene.new_folder()
        folder.mkdir()
        path = folder / f"r.{form}"
        written = _write(path, rows, form, strictly=kind == "plain")
        if damage:
            path.write_bytes(mutated(path.read_bytes() or b"\n", random.Random(salt)))
        (folder / "s.toml").write_text(
            f'[tasks.t]\ntrain = "r.{form}"\ntest = "r.{form}"\nprompt = "Ask: {{x}}\\nA:"\ntarget = "y"\nmetric = "token_f1"\n'
        )
        expected = rows if kind == "plain" and written and not damage else None
        act = _reading(folder, expected) if number % 10 else _checking(folder, scene)
        ending = run(act, patience=60)
        wrong = fault(ending)
        if not wrong:
            shutil.rmtree(folder)
        yield f"{folder.name}: {form}: {wrong}" if wrong else ""


def _reading(folder: Path, expected: list[dict[str, str]] | None) -> Callable[[], None]:
    def act() -> None:
        try:
            (task,) = load_tasks("", read_stream(folder / "s.toml"))
        except ClbenchError as error:
            if expected is not None:
                raise AssertionError(f"good rows are refused: {error}") from error
            return
        found = [(example.prompt, example.target) for example in task.train]
        if expected is not None:
            wanted = [(f"Ask: {row['x']}\nA:", row["y"]) for row in expected]
            if found != wanted:
                raise AssertionError(f"other rows: {found}, not {wanted}")

    return act


def _checking(folder: Path, scene: Scene) -> Callable[[], Any]:
    return lambda: main(["streams", "check", str(folder / "s.toml"), "--backbone", str(scene.tiny)])


def _write(path: Path, rows: list[Any], form: str, strictly: bool) -> bool:
    """Write rows by the format's usual writer; those that it does not take are left out, and False is returned."""
    import csv

    import pyarrow
    import pyarrow.parquet

    table = [row for row in rows if isinstance(row, dict)]
    match form:
        case "json":
            path.write_text(json.dumps(rows))
        case "jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case "csv" | "tsv":
            with path.open("w", encoding="utf-8", errors="surrogatepass", newline="") as file:
                writer = csv.DictWriter(
                    file, ["x", "y"], delimiter="," if form == "csv" else "\t", extrasaction="ignore"
                )
                writer.writeheader()
                writer.writerows(table)
        case _:
            try:
                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
            except (pyarrow.ArrowException, ValueError, TypeError, OverflowError) as error:
                if strictly:
                    raise AssertionError(f"rows of plain texts could not be written: {error}") from error
                path.write_bytes(b"PAR1 is not this")
                return False
    return True


def _draw(strategy: st.SearchStrategy[Any], count: int, salt: int) -> list[Any]:
    """Return examples of a strategy, always the same of a number."""
    found: list[Any] = []

    @seed(salt)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(example: Any) -> None:
        found.append(example)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collect()
    return found[:count]
