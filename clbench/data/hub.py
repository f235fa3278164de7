"""The Hugging Face hub: fetch a task's parquet files at the pinned revision, read them with `datasets`, sample their rows.

Files are kept in the hub's own cache, so that HF_HUB_OFFLINE=1 works once they are there. No code from the hub is run.
"""

import random
import ssl
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from clbench.data.rows import Row
from clbench.data.tasks import HubData, TaskSpec
from clbench.data.templates import Template, cells
from clbench.errors import ClbenchError, one_line
from clbench.seeds import derive_seed

PATIENCE = 10  # seconds to wait for the hub's first answer
POOL = 5000  # rows per class that are taken out of a data set; a run samples from them


def read_hub(spec: TaskSpec, split: str, mirror: Path | None = None) -> list[Row]:
    """Return a task's rows on the hub, at most `POOL` a class, the same ones each time; none for the split 'dev'.

    Args:
        mirror: a folder with copies of the hub's data sets, OWNER/NAME, to read instead.

    Raises:
        ClbenchError: the task has no data set on the hub, or it cannot be reached, is gated, or is not as expected.
    """
    if spec.hub is None:
        raise ClbenchError(f"task '{spec.name}' has no data set on the hub; give its folder with --data FOLDER")
    if split == "dev":
        return []
    pattern = spec.hub.train if split == "train" else spec.hub.test
    with _one_line_errors(spec.name, spec.hub):
        folder = _local_copy(mirror, spec.hub) if mirror else _download(spec.hub, pattern)
        files = sorted(map(str, folder.glob(pattern)))
        if not files:
            raise ClbenchError(f"task '{spec.name}': no files {pattern} in {folder}")
        table = _load(files)
    place = f"{spec.hub.id}/{pattern}"
    return _rows(spec.hub, table, place, derive_seed("hub", spec.data_name, split))


def _local_copy(mirror: Path, hub: HubData) -> Path:
    folder = mirror / hub.id
    if not folder.is_dir():
        raise ClbenchError(f"{mirror}: no folder '{hub.id}' (a copy of the hub's data set)")
    return folder


def _download(hub: HubData, pattern: str) -> Path:
    from huggingface_hub import constants, snapshot_download

    local = constants.HF_HUB_OFFLINE or not _answers(constants.ENDPOINT)
    return Path(
        snapshot_download(
            hub.id, repo_type="dataset", revision=hub.revision, allow_patterns=[pattern], local_files_only=local
        )
    )


@cache
def _answers(address: str) -> bool:
    """Return whether the hub answers at all; if it does not, `huggingface_hub` tries half a minute for every file list."""
    try:
        urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # `huggingface_hub` may know more certificates
    except OSError:
        return False
    return True


def _load(files: Sequence[str]) -> Any:
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset("parquet", data_files=list(files), split="train")


def _rows(hub: HubData, table: Any, place: str, seed: int) -> list[Row]:
    template, names = Template(hub.passage), dict(hub.labels)
    missing = [column for column in (*template.columns, hub.label) if column not in table.column_names]
    if missing:
        raise ClbenchError(f"{place}: no column '{missing[0]}' (columns: {', '.join(table.column_names)})")
    of_class = defaultdict(list)
    for index, value in enumerate(table.select_columns([hub.label]).with_format("arrow")[:][hub.label].to_pylist()):
        of_class[str(value)].append(index)
    unexpected = sorted(set(of_class) - set(names))
    if unexpected:
        raise ClbenchError(
            f"{place}: row {of_class[unexpected[0]][0]}: value '{unexpected[0]}' in column '{hub.label}' stands for no "
            f"label (known: {', '.join(names)})"
        )
    chooser = random.Random(seed)
    chosen = [i for name in sorted(of_class) for i in chooser.sample(of_class[name], min(POOL, len(of_class[name])))]
    rows = []
    for index, row in zip(sorted(chosen), table.select(sorted(chosen)).to_list(), strict=True):
        where = f"{place}: row {index}"
        passage = template.fill(cells(row, template.columns, where))
        rows.append(Row(passage.rstrip(), (names[str(row[hub.label])],), where, index))
    return rows


@contextmanager
def _one_line_errors(task: str, hub: HubData) -> Iterator[None]:
    from datasets.exceptions import DatasetsError
    from huggingface_hub import errors

    name = f"task '{task}': hub data set '{hub.id}'"
    try:
        yield
    except errors.GatedRepoError:
        raise ClbenchError(
            f"{name} is gated: accept its terms at https://huggingface.co/datasets/{hub.id} and log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise ClbenchError(f"{name} has no revision '{hub.revision}'") from None
    except errors.RepositoryNotFoundError:
        raise ClbenchError(f"{name} is not there, or is private") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise ClbenchError(
            f"{name} cannot be reached and is not in the cache; connect once (HF_HUB_OFFLINE unset), or use --data FOLDER"
        ) from None
    except (errors.HfHubHTTPError, DatasetsError, OSError, ValueError) as error:
        raise ClbenchError(f"{name} cannot be read: {one_line(error)}") from error
