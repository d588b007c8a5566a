"""Policies of the Hugging Face Hub: ``hf://owner/repository[@revision][/file]``. Needs the extra ``hub``."""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from distilrl.errors import ExtraError, FileError
from distilrl.limits import MAX_BYTES
from distilrl.teachers.source import TeacherFile
from distilrl.teachers.vecnormalize import NORMALIZER
from distilrl.text import first_line, legible

SUFFIXES = (".zip", ".cleanrl_model", ".onnx", ".safetensors", ".pth", ".pt")
OTHERS = ("replay", "train_eval_metrics.zip")
"""In names of what RL Zoo puts beside a policy."""
ID = r"hf://([\w.-]+/[\w.-]+)(?:@(refs/\w+/[\w.-]+|[\w.-]+))?(?:/([^\\:*?<>|]+\.\w+))?"
"""Repository, revision, and file, which may lie in a folder."""
_offline: ContextVar[bool] = ContextVar("offline", default=False)


def is_hub(path: str) -> bool:
    """Whether a path names a repository of the Hub."""
    return path.startswith("hf://")


def fetch(file: TeacherFile) -> tuple[TeacherFile, str]:
    """Downloads a policy, or finds it in the cache when offline (``HF_HUB_OFFLINE=1``).

    A VecNormalize pickle beside a stable-baselines3 zip is used unless another is named.

    Returns:
        The file on this machine, and the commit that it came from.

    Raises:
        ExtraError: huggingface_hub is not installed.
        FileError: the id is malformed, unknown, or the repository holds no policy.
    """
    match = re.fullmatch(ID, file.path)
    if not match or ".." in file.path.split("/"):
        raise FileError(
            f"'{file.path}' is no id of the Hub: write hf://owner/repository, optionally with @revision and /file."
        )
    try:
        import huggingface_hub
        import huggingface_hub.constants
    except ImportError:
        raise ExtraError("huggingface_hub", "hub", f"Reading {file.path}") from None
    repository, revision, name = match[1], match[2], match[3]
    try:
        sizes, commit = _contents(huggingface_hub, repository, revision)
        chosen = name or _choose(sizes, file.path)
        if chosen not in sizes:
            raise FileError(f"{file.path} names no file of the repository: look at its files.")
        _check_size(chosen, sizes[chosen], file.path)
        local = Path(
            huggingface_hub.hf_hub_download(repository, chosen, revision=revision, local_files_only=_offline.get())
        )
        inside = len(PurePosixPath(chosen).parts)
        if local.parents[inside].name == "snapshots":  # what is pushed meanwhile is of another commit than the list
            revision = commit = local.parents[inside - 1].name
        normalizer = file.normalizer
        beside = str(PurePosixPath(chosen).with_name(NORMALIZER))
        if normalizer is None and chosen.endswith(".zip") and beside in sizes:
            _check_size(beside, sizes[beside], file.path)
            normalizer = str(
                huggingface_hub.hf_hub_download(repository, beside, revision=revision, local_files_only=_offline.get())
            )
    except FileError:
        raise
    except Exception as error:  # network, cache and repository errors are of many kinds
        raise FileError(
            f"{file.path} cannot be had from the Hub ({first_line(error)}): check the id and the network."
        ) from None
    return replace(file, path=str(local), normalizer=normalizer), commit or ""


@contextmanager
def offline() -> Iterator[None]:
    """Nothing is downloaded: what is not in the cache is missing. For what a file names and the user did not."""
    token = _offline.set(True)
    try:
        yield
    finally:
        _offline.reset(token)


def _contents(hub: Any, repository: str, revision: str | None) -> tuple[dict[str, int | None], str | None]:
    """Names of a repository's files with their bytes, None where it does not say, and its commit; from the cache when
    offline.
    """
    if hub.constants.HF_HUB_OFFLINE or _offline.get():
        patterns = [*(f"*{suffix}" for suffix in SUFFIXES), f"*{NORMALIZER}"]
        folder = Path(
            hub.snapshot_download(repository, revision=revision, allow_patterns=patterns, local_files_only=True)
        )
        found = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}, folder.name
    info = hub.HfApi().model_info(repository, revision=revision, files_metadata=True)
    return {one.rfilename: one.size for one in info.siblings or []}, info.sha


def _check_size(name: str, size: int | None, label: str) -> None:
    """Refuses a file before it is downloaded."""
    if size is None or size > MAX_BYTES:
        told = "of unknown size" if size is None else f"{size:,} bytes long"
        raise FileError(
            f"'{legible(name)}' of {label} is {told}, and a policy has at most {MAX_BYTES:,} bytes: name another file."
        )


def _choose(sizes: dict[str, int | None], label: str) -> str:
    """The one policy among a repository's files; one that is too large where there is no other."""
    for deep, suffix in itertools.product((False, True), SUFFIXES):  # in folders where there is none outside
        known = [n for n in sizes if n.endswith(suffix) and ("/" in n) == deep and not any(o in n for o in OTHERS)]
        found = [n for n in known if (sizes[n] or 0) <= MAX_BYTES] or known
        if len(found) == 1:
            return found[0]
        if found:
            raise FileError(
                f"{label} holds several policies ({', '.join(sorted(found))[:160]}): name one as {label}/FILE."
            )
    raise FileError(f"{label} holds no policy ({', '.join(SUFFIXES)}): look at its files.")
