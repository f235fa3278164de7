"""Where a backbone's files lie (embedded, local folder, GGUF file, Hugging Face hub), and a digest of them. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path

from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError
from safetensors import SafetensorError

from clbench.errors import ClbenchError, one_line
from clbench.names import nearest
from clbench.settings import load_presets

EMBEDDED = "mini"
PATIENCE = 5  # seconds for the hub to answer
NOT_READ = (".md", ".gitattributes", ".gitignore", "LICENSE")  # ends of the names of files that no run reads


def is_gguf(name: str) -> bool:
    """Return whether a backbone is named by the path of a GGUF file."""
    return name.endswith(".gguf")


def locate(name: str) -> str:
    """Return the folder of an embedded or a local backbone; a hub id stays as it is, and so does a GGUF file.

    Raises:
        ClbenchError: the folder is none of a model, or the file is not there.
    """
    if is_gguf(name):
        if not Path(name).is_file():
            raise ClbenchError(f"no backbone '{name}': there is no such file")
        return name
    if name != EMBEDDED and Path(name).exists() and not (Path(name) / "config.json").is_file():
        raise ClbenchError(f"backbone '{name}': the folder has no config.json; expected a Hugging Face model folder")
    if hub_id(name):
        _check_reachable(name)
    return str(files("clbench.model") / EMBEDDED) if name == EMBEDDED else name


def hub_id(name: str) -> str | None:
    """Return the id on the hub that a backbone is named by; none for an embedded or a local one."""
    return None if name == EMBEDDED or is_gguf(name) or Path(name).exists() else name


def public_name(name: str) -> str:
    """Return a backbone's name as it means something elsewhere: of a path on this machine the last part alone."""
    return name if name == EMBEDDED or hub_id(name) else Path(name).resolve().name


def lasting_name(name: str) -> str:
    """Return a backbone's name as it can be found again from any working directory of this machine: paths in full."""
    return name if name == EMBEDDED or hub_id(name) else str(Path(name).resolve())


@cache
def _check_reachable(name: str) -> None:
    """Ask for a hub id that is not in the cache once, before libraries ask again and again for half a minute.

    Raises:
        ClbenchError: the hub cannot be reached.
    """
    from huggingface_hub import HfApi, constants, try_to_load_from_cache  # here: slow to import

    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        HfApi().model_info(name, timeout=PATIENCE)
    except (HfHubHTTPError, HFValidationError):
        return  # it was reached, or need not be: loading says what is wrong
    except Exception as error:  # whatever the HTTP library calls a network that is not there
        raise ClbenchError(
            f"no backbone '{name}'{_hint(name)} (not '{EMBEDDED}', no local folder, not in the hub's cache, and "
            f"{constants.ENDPOINT} cannot be reached: {type(error).__name__})"
        ) from error


def _hint(name: str) -> str:
    """Return what backbone may be meant, of those of the presets and those in the hub's cache; nothing if it is one of them."""
    from huggingface_hub import constants

    cached = [path.name[8:].replace("--", "/") for path in Path(constants.HF_HUB_CACHE).glob("models--*")]
    known = [*(str(one["backbone"]) for one in load_presets().values() if "backbone" in one), *cached]
    by_end = {one.rpartition("/")[2]: one for one in known}
    near = nearest(name, known) or [by_end[end] for end in nearest(name.rpartition("/")[2], by_end)]
    return f"; did you mean '{near[0]}'?" if near and name not in known else ""


def backbone_digest(name: str) -> str:
    """Return a digest of all that is read of a backbone: its files' names and contents, or the commit of its hub snapshot.

    The files of a folder are read as a whole, about a second a gigabyte.

    Raises:
        ClbenchError: the backbone is not there.
    """
    folder = Path(locate(name))
    if is_gguf(name):
        return digest_file(folder)
    if not folder.is_dir():
        return f"hub commit {_hub_commit(name)}"
    paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.endswith(NOT_READ))
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        contents = pool.map(digest_file, paths)
        listing = "".join(f"{digest} {path.name}\n" for digest, path in zip(contents, paths, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Return a digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def _hub_commit(name: str) -> str:
    from huggingface_hub import hf_hub_download  # here: slow to import

    with plain_errors(name):
        return Path(hf_hub_download(name, "config.json")).parent.name  # .../snapshots/COMMIT/config.json


@contextmanager
def plain_errors(name: str) -> Iterator[None]:
    """Turn what transformers and the hub raise about a model into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        if isinstance(error, GatedRepoError) or isinstance(error.__cause__, GatedRepoError):
            message = (
                f"backbone '{name}' is gated: accept its terms at https://huggingface.co/{name} and `hf auth login`"
            )
        elif "trust_remote_code" in str(error):
            message = f"backbone '{name}' needs code that comes with it: read it, then give --trust-remote-code"
        else:
            message = (
                f"no backbone '{name}'{_hint(name)} (not '{EMBEDDED}', and neither a readable local folder nor a reachable hub "
                f"id: {one_line(error)})"
            )
        raise ClbenchError(message) from error
