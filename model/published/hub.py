"""From a hub name (``owner/name`` or ``owner/name@revision``) to a folder with the checkpoint's files.

`huggingface_hub` does the work: cache, resuming, progress on standard error, ``HF_HOME``, ``HF_ENDPOINT``, ``HF_TOKEN``
and ``HF_HUB_OFFLINE``. Here is what to fetch, in an order that finds a wrong name before gigabytes are moved, and what
to tell the operator when it fails.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from model.published.loading import FAMILIES, model_type

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_SMALL = ["*.json", "*.jinja", "vocab.txt", "merges.txt", "*.model"]
_WEIGHTS = ["model.safetensors", "model-*-of-*.safetensors"]
_PICKLED = ["pytorch_model.bin", "pytorch_model-*-of-*.bin"]
_SUBFOLDERS = ["*/*"]  # other formats of the same weights
_NEEDED_SUBFOLDERS = {"instructblip": ["qformer_tokenizer/*"]}


def is_hub_name(name: str) -> bool:
    """Whether a model's name can be one of the hub's."""
    return _NAME.fullmatch(name) is not None and not name.startswith(".")


def fetch(name: str, *, allow_pickle: bool = False) -> tuple[Path, str]:
    """The folder of a checkpoint, downloaded unless it is in the cache, and the commit that it is at.

    Raises ValueError where the hub has no such model or it is of no known family, OSError where it cannot be had.
    """
    from huggingface_hub import errors, hf_hub_download, snapshot_download

    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f"{name!r} is not of the form owner/name or owner/name@revision")
    repository, revision = found["repository"], found["revision"]
    try:
        config = Path(hf_hub_download(repository, "config.json", revision=revision))
        family = model_type(config.parent)
        if family not in FAMILIES:
            raise ValueError(f"{name} is a model of type {family!r}; known are {', '.join(FAMILIES)}")
        commit = config.parent.name
        logger.info("fetching %s at %s, unless it is in the cache", repository, commit)
        for patterns in (_SMALL + _WEIGHTS, _PICKLED):
            snapshot = snapshot_download(
                repository, revision=commit, allow_patterns=patterns, ignore_patterns=_SUBFOLDERS
            )
            if patterns is _PICKLED or any(Path(snapshot).glob("*.safetensors")):
                break
            _only_pickled(name, allow_pickle)
        if family in _NEEDED_SUBFOLDERS:
            snapshot_download(repository, revision=commit, allow_patterns=_NEEDED_SUBFOLDERS[family])
        return Path(snapshot), commit
    except errors.GatedRepoError:
        message = "asks for its terms to be accepted: do so on its page, then set HF_TOKEN to a token of that account"
        raise ValueError(f"{name} is gated; it {message}") from None
    except errors.RepositoryNotFoundError:
        message = "check the name; for a private model set HF_TOKEN. There is no folder of that name either"
        raise ValueError(f"the hub has no model {name}, or hides it: {message}") from None
    except errors.RevisionNotFoundError:
        raise ValueError(f"{repository} has no revision {revision}") from None
    except errors.LocalEntryNotFoundError as error:
        message = "is not in the local cache, and the hub cannot be reached"
        hint = "give the server a network, or a folder with the model's files"
        raise OSError(f"{name} {message} ({error.__cause__ or 'offline'}); {hint}") from None
    except errors.EntryNotFoundError:
        raise ValueError(f"{name} has no config.json: it is no model of transformers") from None
    except errors.HfHubHTTPError as error:
        raise OSError(f"the hub failed to give {name}: {error}") from None


def _only_pickled(name: str, allow_pickle: bool) -> None:
    """Say that there are no safetensors; raise ValueError unless pickled weights are allowed."""
    if not allow_pickle:
        message = "loading pickled ones can run code. Convert it, or set CROSSLOOK_ALLOW_PICKLE=1 if you trust it"
        raise ValueError(f"{name} has no weights as safetensors; {message}")
    logger.warning("%s has no weights as safetensors; its pickled ones are read, as CROSSLOOK_ALLOW_PICKLE says", name)
