"""GGUF files as backbones: converted once, in the cache, to a folder that transformers reads like any other."""

from __future__ import annotations

import tempfile
from contextlib import redirect_stderr
from functools import cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock

from clbench.atomic import make_folder, write_folder_atomically
from clbench.encoding.token_cache import cache_folder
from clbench.errors import ClbenchError, one_line
from clbench.model.backbone_files import digest_file

FORM = 1  # goes up when a file is converted otherwise
SPECIAL = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # a tokenizer's names to those of GGUF


@cache
def converted(file: Path, _changed: int) -> Path:
    """Return the folder that a GGUF file has been converted to, which takes a minute the first time.

    The weights are unpacked and rounded to bfloat16. The folder's name is a digest of the file's content and of the versions of
    what converts it; it appears when it is complete. Without a cache ($CLBENCH_CACHE is 'none') it lives as long as the process.

    Args:
        _changed: when the file was last changed, so that it is digested again after that.

    Raises:
        ClbenchError: it is no GGUF file, the package gguf is missing, or the file does not say what ends a text.
    """
    with file.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ClbenchError(
                f"backbone '{file}' is not a GGUF file: it does not begin with 'GGUF'; download it again"
            )
    if find_spec("gguf") is None:
        raise ClbenchError(f"backbone '{file}' needs the package gguf: pip install 'clbench[gguf]'")
    versions = f"{FORM}-{transformers.__version__}-{version('gguf')}"
    place = (cache_folder() or Path(_scratch().name)) / "gguf"
    folder = place / f"{digest_file(file)[:32]}-{versions}"
    make_folder(place)
    with FileLock(place / f"{folder.name}.lock"):  # processes that start together convert it once
        if not folder.is_dir():
            write_folder_atomically(folder, partial(_convert, file))
    return folder


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="clbench-")


def _convert(file: Path, folder: Path) -> None:
    """Write the folder of a GGUF file.

    Raises:
        ClbenchError: transformers does not read this architecture, or the file does not say what ends a text.
    """
    source: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    try:
        with redirect_stderr(StringIO()):  # bars of progress that no setting of transformers switches off
            tokenizer, model = _read(source)
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise ClbenchError(f"backbone '{file}' cannot be converted by transformers: {one_line(error)}") from error
    ids = _set_special_tokens(file, tokenizer, _metadata(file))
    config = type(model.config).from_dict(
        {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    )
    config.update({f"{name}_token_id": number for name, number in ids.items() if name != "unk"})
    with torch.device("meta"):
        clean = type(model)(config)  # the one that was read remembers where it comes from, and refuses to be saved
    clean.load_state_dict(model.state_dict(), assign=True)
    clean.tie_weights()
    clean.generation_config = transformers.GenerationConfig.from_model_config(config)
    clean.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read(source: dict[str, Any]) -> tuple[Any, Any]:
    """Return tokenizer and model, its weights unpacked."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(**source)
    config = transformers.AutoConfig.from_pretrained(**source)
    kind = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    packed = getattr(transformers, "GgufConfig", None)  # newer versions leave the weights packed
    unpack = {} if packed is None else {"quantization_config": packed(dequantize=True)}
    return tokenizer, kind.from_pretrained(**source, dtype=torch.bfloat16, **unpack)


def _metadata(file: Path) -> dict[str, Any]:
    """Return what a file says of its tokens: ids of special ones, and the chat template."""
    from gguf import GGUFReader  # here: an extra

    fields = GGUFReader(file).fields
    wanted = [f"tokenizer.ggml.{name}_token_id" for name in SPECIAL.values()] + ["tokenizer.chat_template"]
    return {name: fields[name].contents() for name in wanted if name in fields}


def _set_special_tokens(file: Path, tokenizer: Any, said: dict[str, Any]) -> dict[str, int]:
    """Give a tokenizer the special tokens that the file names, and return their ids; transformers' versions guess otherwise.

    A token that the file does not name the tokenizer does not have; without an end token nothing works.

    Raises:
        ClbenchError: the file names no end token.
    """
    ids: dict[str, int] = {}
    for name, theirs in SPECIAL.items():
        number = said.get(f"tokenizer.ggml.{theirs}_token_id")
        if number is None and name == "eos":
            raise ClbenchError(f"backbone '{file}' does not say which token ends a text (tokenizer.ggml.eos_token_id)")
        if number is not None:
            ids[name] = int(number)
        setattr(tokenizer, f"{name}_token", None if number is None else tokenizer.convert_ids_to_tokens(int(number)))
    tokenizer.chat_template = said.get("tokenizer.chat_template")
    return ids
