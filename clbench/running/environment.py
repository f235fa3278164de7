"""Where a run is made: the device, versions of packages, the commit of clbench's own checkout."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import clbench
from clbench.records.record import Environment

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "pluggy")
PACKAGE_FOLDER = Path(clbench.__file__).parent


def describe_environment(device: torch.device, dtype: torch.dtype, plugins: tuple[str, ...]) -> Environment:
    """Return what a record says of where its run was made."""
    return Environment(
        clbench=clbench.__version__,
        git_commit=git_commit(),
        device=torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type}, {os.cpu_count()} cores",
        precision=str(dtype).removeprefix("torch."),
        versions=_versions(),
        plugins=plugins,
    )


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit(folder: Path = PACKAGE_FOLDER) -> str | None:
    """Return the commit of the checkout that clbench runs from, marked '+' if it has changes; none where it is installed.

    A repository counts as clbench's own where the package lies at its top and is tracked: not the user's repository in whose
    virtual environment clbench is installed.
    """
    own = _git(folder, "rev-parse", "--show-prefix") == f"{folder.name}/"
    if not own or not _git(folder, "ls-files", "--error-unmatch", "__init__.py"):
        return None
    return _git(folder, "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*")


def _git(folder: Path, *words: str) -> str | None:
    """Return what a git command prints in a folder; none if it fails."""
    try:
        result = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None
