"""Where a backbone's files lie (embedded, local folder, GGUF file, Hugging Face hub), and a digest of them. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from huggingface_hub.errors import GatedRepoError
from safetensors import SafetensorError

from clbench.errors import ClbenchError, one_line

EMBEDDED = "mini"
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
                f"no backbone '{name}': not '{EMBEDDED}', and neither a readable local folder nor a reachable hub id "
                f"({one_line(error)})"
            )
        raise ClbenchError(message) from error
