"""A method's state and a run's progress as one safetensors file: tensors as tensors, the rest as JSON in its header."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from clbench.atomic import write_atomically
from clbench.data.tasks import Example
from clbench.errors import ClbenchError
from clbench.learning.replay_memory import Memory

KIND = "$kind"
SCHEMA_VERSION = 2  # 1: without schema and identity


def state_of(method: object) -> dict[str, Any]:
    """Return a method's state: its dataclass fields with `init=False`; empty for anything but a dataclass."""
    if not is_dataclass(method):
        return {}
    return {field.name: getattr(method, field.name) for field in fields(method) if not field.init}


def restore_state(method: object, state: Mapping[str, Any]) -> None:
    """Set a method's state fields, every one of them.

    Raises:
        ValueError: the state has other fields than the method.
    """
    found, wanted = sorted(state), sorted(state_of(method))
    if found != wanted:
        raise ValueError(f"the saved state has the fields {found}, the method's {wanted}")
    for name, value in state.items():
        setattr(method, name, value)


def save_checkpoint(path: Path, content: Mapping[str, Any], identity: str) -> None:
    """Write nested dicts, lists, numbers, texts, tensors, `Example`s and `Memory`s to one file, atomically.

    Args:
        identity: of the run that goes on from it.

    Raises:
        TypeError: a value of another kind; the message names its place.
    """
    tensors: dict[str, Tensor] = {}
    header = {"schema_version": str(SCHEMA_VERSION), "identity": identity}
    text = json.dumps(_pack(content, "state", tensors))
    stored = save(tensors, header | {"content": text})
    write_atomically(path, lambda temporary: temporary.write_bytes(stored))


def load_checkpoint(path: Path, device: torch.device, identity: str) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, the tensors onto the device.

    Raises:
        ClbenchError: the file is damaged, of another schema, or of a run of another identity.
    """
    try:
        return read_checkpoint(path, device, identity)
    except ValueError as error:
        raise ClbenchError(f"{path}: {error}; remove it or use --force to start anew") from None


def read_checkpoint(path: Path, device: torch.device, identity: str) -> dict[str, Any]:
    """Return what `load_checkpoint` does; the advice for an error is the caller's.

    Raises:
        ValueError: the file is damaged, of another schema, or of a run of another identity.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            fault = _fault_of_header(header, identity)
            if not fault:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                content: dict[str, Any] = _unpack(json.loads(header["content"]), tensors)
                return content
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"damaged checkpoint ({error})") from None
    raise ValueError(fault)


def _fault_of_header(header: Mapping[str, str], identity: str) -> str:
    found = header.get("schema_version", "1")
    if found != str(SCHEMA_VERSION):
        return f"a checkpoint of schema {found}, this clbench goes on from schema {SCHEMA_VERSION}"
    if header.get("identity") != identity:
        return "a checkpoint of another run (other options, settings, data, sources, weights or protocol)"
    return ""


def _pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        tensors[place] = value.detach().clone().contiguous()
        return {KIND: "tensor", "name": place}
    if isinstance(value, Example):
        return {KIND: "example", **asdict(value)}
    if isinstance(value, Memory):
        return {KIND: "memory", "of_task": _pack(value.of_task, place, tensors)}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, f"{place}.{number}", tensors) for number, item in enumerate(value)]
        return {KIND: "tuple", "items": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _pack(item, f"{place}.{key}", tensors) for key, item in value.items()}
    raise TypeError(f"{place}: a {type(value).__name__} cannot be checkpointed; use tensors, Memory, or plain values")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    content = {key: _unpack(item, tensors) for key, item in value.items() if key != KIND}
    match value.get(KIND):
        case None:
            return content
        case "tensor":
            return tensors[content["name"]]
        case "example":
            return Example(**{**content, "references": tuple(content.get("references", ()))})
        case "memory":
            return Memory(**content)
        case "tuple":
            return tuple(content["items"])
        case kind:
            raise ValueError(f"unknown kind '{kind}'")
