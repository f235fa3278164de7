"""The layouts of the public data folders: where each release keeps a task's file, and how its rows read.

Every reader returns the same passage and answers for the same row, so that the prompt does not depend on the release.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clbench.data.catalogue import superni_head
from clbench.data.rows import Row, json_rows, read_json, text_field
from clbench.data.tasks import SUFFIX, TaskSpec
from clbench.errors import ClbenchError, unknown

SAPT_NAMES = (("boolqa", "boolq"), ("sst-2", "sst2"))  # tasks that SAPT calls otherwise
SAPT_ANSWERS = (("qqp", (("yes", "True"), ("no", "False"))),)  # and labels


@dataclass(frozen=True)
class Layout:
    """One release's folder: `path_of(folder, task, split)` is a task's file, `read(path, spec)` its rows."""

    name: str
    pattern: str
    recognises: Callable[[Path], bool]
    path_of: Callable[[Path, str, str], Path]
    read: Callable[[Path, TaskSpec], list[Row]]

    def rows(self, folder: Path, spec: TaskSpec, split: str) -> list[Row]:
        """Return a task's rows; none where the release has no dev file.

        Raises:
            ClbenchError: the file is missing or malformed.
        """
        path = self.path_of(folder, spec.data_name, split)
        return [] if split == "dev" and not path.exists() else self.read(path, spec)


def find_layout(folder: Path, name: str = "auto") -> Layout:
    """Return the layout of a name, or the one that the folder shows.

    Raises:
        ClbenchError: no such layout, or the folder shows none.
    """
    if name != "auto":
        if name not in LAYOUTS:
            raise unknown("layout", name, LAYOUTS)
        return LAYOUTS[name]
    for split, other in (("train", "test"), ("test", "train")):
        if (folder / split).is_dir() and not (folder / other).is_dir():
            raise ClbenchError(f"{folder}: no folder '{other}'; expected train/TASK.json and test/TASK.json")
    for layout in LAYOUTS.values():
        if layout.recognises(folder):
            return layout
    known = "; ".join(f"{layout.name}: {layout.pattern}" for layout in LAYOUTS.values())
    raise ClbenchError(f"{folder}: not a folder in a known layout ({known}); --layout names one")


def read_rkif(path: Path, spec: TaskSpec) -> list[Row]:
    """Read a file of the Recurrent-KIF release: a JSON list of `{id, instruction, input, output}`.

    The instruction is taken from the task's specification; the input's closing "Answer:" line is cut, and kept as the tail.
    """
    rows = []
    for number, row in enumerate(json_rows(path, read_json(path))):
        place = f"{path}: row {number}"
        text = text_field(place, row, "input")
        passage = text.rstrip().removesuffix(SUFFIX.strip()).rstrip()
        answers = (text_field(place, row, "output").strip(),)
        rows.append(Row(passage, answers, place, number, tail=text[len(passage) :]))
    return rows


def read_olora(path: Path, spec: TaskSpec) -> list[Row]:
    """Read a file of the O-LoRA release: a JSON list of `{sentence, label}`."""
    rows = []
    for number, row in enumerate(json_rows(path, read_json(path))):
        place = f"{path}: row {number}"
        answers = (text_field(place, row, "label").strip(),)
        rows.append(Row(text_field(place, row, "sentence").rstrip(), answers, place, number))
    return rows


def read_sapt(path: Path, spec: TaskSpec) -> list[Row]:
    """Read a file of the SAPT release: `{Definition, ..., Instances: [{input, output}]}`, output a text or a list.

    The definition is taken from the task's specification; of a task that has none, from the file.
    """
    content = read_json(path)
    if not isinstance(content, dict) or "Instances" not in content:
        found = f"fields {', '.join(content)}" if isinstance(content, dict) else type(content).__name__
        raise ClbenchError(f"{path}: expected an object with the field 'Instances', found {found}")
    head = None if spec.head else superni_head(_definition(path, content))
    renamed = dict(dict(SAPT_ANSWERS).get(spec.data_name, ()))
    rows = []
    for number, row in enumerate(json_rows(path, content["Instances"], "Instances: ")):
        place = f"{path}: row {number}"
        answers = [answer.strip() for answer in _outputs(place, row)]
        passage = text_field(place, row, "input").strip()
        rows.append(Row(passage, tuple(renamed.get(answer, answer) for answer in answers), place, number, head=head))
    return rows


def _definition(path: Path, content: Mapping[str, Any]) -> str:
    found = content.get("Definition")
    definition = found[0] if isinstance(found, list) and found else found
    if not isinstance(definition, str) or not definition.strip():
        raise ClbenchError(f"{path}: no text 'Definition', which the prompts of a task that is not built in begin with")
    return definition.strip()


def read_trace(path: Path, spec: TaskSpec) -> list[Row]:
    """Read a file of the TRACE release: a JSON list of `{prompt, answer}`, the prompt complete.

    The beginning and the end that all prompts of the task share are taken from its specification, so that what lies between them
    is what may be shortened. In place of the development file the release has `eval.json`.

    Raises:
        ClbenchError: a prompt begins or ends otherwise.
    """
    rows = []
    for number, row in enumerate(json_rows(path, read_json(path))):
        place = f"{path}: row {number}"
        prompt, answer = text_field(place, row, "prompt"), text_field(place, row, "answer")
        text = prompt.rstrip()
        for what, shared, there in (
            ("begin", spec.head, text.startswith(spec.head)),
            ("end", spec.tail, text.endswith(spec.tail)),
        ):
            if not there:
                raise ClbenchError(
                    f"{place}: the prompt does not {what} with {shared!r}, as those of task '{spec.name}' do: {text[:60]!r}"
                )
        passage = text[len(spec.head) : len(text) - len(spec.tail)].rstrip()
        rows.append(Row(passage, (answer.strip(),), place, number, tail=prompt[len(spec.head) + len(passage) :]))
    return rows


def _outputs(place: str, row: dict[str, Any]) -> list[str]:
    output = row.get("output")
    if isinstance(output, list) and output and all(isinstance(one, str) for one in output):
        return output
    if isinstance(output, list):
        raise ClbenchError(f"{place}: field 'output' must be a text or a list of texts")
    return [text_field(place, row, "output")]


def _rkif_path(folder: Path, task: str, split: str) -> Path:
    return folder / split / f"{task}.json"


def _olora_path(folder: Path, task: str, split: str) -> Path:
    names = {path.name.lower(): path for path in sorted(folder.glob("*/*")) if path.is_dir()}
    if task not in names:
        raise ClbenchError(f"{folder}: no folder GROUP/{task} (tasks there: {', '.join(names) or 'none'})")
    return names[task] / f"{split}.json"


def _sapt_path(folder: Path, task: str, split: str) -> Path:
    for name in (task, dict(SAPT_NAMES).get(task, task)):
        if (folder / name).is_dir():
            return folder / name / f"{split}.json"
    numbered = sorted(folder.glob(f"{task}_*")) if re.fullmatch(r"task\d+", task) else []  # one by its number alone
    if len(numbered) == 1:
        return numbered[0] / f"{split}.json"
    present = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())) or "none"
    raise ClbenchError(f"{folder}: no folder '{task}' (tasks there: {present})")


def _trace_path(folder: Path, task: str, split: str) -> Path:
    return _sapt_path(folder, task, "eval" if split == "dev" else split)


def _has(pattern: str, folder: Path) -> bool:
    return next(folder.glob(pattern), None) is not None


LAYOUTS: Mapping[str, Layout] = MappingProxyType({
    layout.name: layout
    for layout in (
        Layout(
            "rkif", "{train,test}/TASK.json", lambda folder: (folder / "train").is_dir(), _rkif_path, read_rkif
        ),
        Layout("trace", "TASK/{train,eval,test}.json", partial(_has, "*/eval.json"), _trace_path, read_trace),
        Layout("sapt", "TASK/{train,test}.json", partial(_has, "*/train.json"), _sapt_path, read_sapt),
        Layout("olora", "GROUP/TASK/{train,test}.json", partial(_has, "*/*/train.json"), _olora_path, read_olora),
    )
})  # fmt: skip
