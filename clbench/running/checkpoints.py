"""A method's state and a run's progress as one safetensors file: tensors as tensors, the rest as JSON in its header."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

import clbench
from clbench.atomic import regular, write_atomically
from clbench.data.rows import parse_json
from clbench.data.tasks import Example
from clbench.errors import ClbenchError
from clbench.learning.replay_memory import Memory

KIND = "$kind"
CONTENT = "content"
MOST_HEADER = (
    50_000_000  # characters: safetensors reads no header of more than 100 MB, and a long run has that many answers
)
SCHEMA_VERSION = 3  # 1: without schema and identity; 2: without digest and versions


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
    text = json.dumps(_pack(content, "state", tensors))
    header = {"schema_version": str(SCHEMA_VERSION), "identity": identity, **_versions()}
    header["digest"] = _digest(text, tensors)
    if len(text) > MOST_HEADER:
        tensors[CONTENT] = torch.frombuffer(bytearray(text.encode("ascii")), dtype=torch.uint8)
    else:
        header[CONTENT] = text
    stored = save(tensors, header)
    write_atomically(path, lambda temporary: temporary.write_bytes(stored))


def load_checkpoint(path: Path, device: torch.device, identity: str) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote, the tensors onto the device.

    Raises:
        ClbenchError: the file is damaged, of another schema or of other versions, or of a run of another identity.
    """
    try:
        return read_checkpoint(path, device, identity, _versions())
    except ValueError as error:
        raise ClbenchError(f"{path}: {error}; remove it or use --force to start anew") from None


def damaged(path: Path, why: object) -> ClbenchError:
    """Return the error for a checkpoint that no run can go on from."""
    return ClbenchError(f"{path}: damaged checkpoint ({why}); remove it or use --force to start anew")


def read_checkpoint(
    path: Path, device: torch.device, identity: str, versions: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return what `load_checkpoint` does; the advice for an error is the caller's.

    Args:
        versions: those that must have written it; none: any.

    Raises:
        ValueError: the file is damaged, of another schema or other versions, or of a run of another identity.
    """
    try:
        with safe_open(regular(path), framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            fault = _fault_of_header(header, identity, versions)
            tensors = {} if fault else {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if not fault:
            text = bytes(tensors.pop(CONTENT).numpy()).decode() if CONTENT in tensors else header[CONTENT]
            if header["digest"] != _digest(text, tensors):
                raise ValueError("its digest is another one")
            # Copied, since in the file they begin anywhere: some products round otherwise where memory is not aligned.
            placed = {name: tensor.to(device, copy=True) for name, tensor in tensors.items()}
            content: dict[str, Any] = _unpack(parse_json(text), placed)
            return content
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"damaged checkpoint ({error})") from None
    raise ValueError(fault)


def _versions() -> dict[str, str]:
    return {"clbench": clbench.__version__, "torch": torch.__version__}


def digest_of(content: Any) -> str:
    """Return a digest of what a checkpoint can hold.

    Raises:
        TypeError: it holds a value of another kind; the message names its place.
    """
    tensors: dict[str, Tensor] = {}
    return _digest(json.dumps(_pack(content, "state", tensors)), tensors)


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a checkpoint's content and of all its tensors."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _fault_of_header(header: Mapping[str, str], identity: str, versions: Mapping[str, str] | None) -> str:
    found = header.get("schema_version", "1")
    if found != str(SCHEMA_VERSION):
        return f"a checkpoint of schema {found}, this clbench goes on from schema {SCHEMA_VERSION}"
    if header.get("identity") != identity:
        return "a checkpoint of another run (other options, settings, data, sources, weights or protocol)"
    made = {name: header.get(name) for name in _versions()}
    if versions is not None and made != versions:
        of, here = (", ".join(f"{name} {one}" for name, one in which.items()) for which in (made, versions))
        return f"a checkpoint of {of}; with {here} a run would not go on as it began"
    return ""


def _pack(value: Any, place: str, tensors: dict[str, Tensor]) -> Any:
    """Return a value as JSON holds it; its tensors, numbered as they come, go into `tensors`."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().clone().contiguous()
        return {KIND: "tensor", "name": name}
    if isinstance(value, Example):
        return {KIND: "example", **asdict(value)}
    if isinstance(value, Memory):
        return {KIND: "memory", "of_task": _pack(value.of_task, place, tensors)}
    if isinstance(value, (list, tuple)):
        items = [_pack(item, f"{place}.{number}", tensors) for number, item in enumerate(value)]
        return {KIND: "tuple", "items": items} if isinstance(value, tuple) else items
    if isinstance(value, Mapping) and all(isinstance(key, str) and key != KIND for key in value):
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
