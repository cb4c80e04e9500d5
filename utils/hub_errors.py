"""What went wrong between this machine and the Hugging Face hub, in one line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from utils.errors import UserError, first_line

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")  # name/repository, or name/repository@revision


def split_hub_id(source: str) -> tuple[str, str | None] | None:
    """ "name/repository" or "name/repository@revision" -> repository and revision; None for anything else."""
    match = HUB_ID.fullmatch(source)
    return (match[1], match[2]) if match else None


def explain(error: Exception) -> str:
    """The cause of an error of huggingface_hub, and what to do about it."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if isinstance(error, GatedRepoError):
        return "its owner gives access on request: ask for it on the hub's page"
    if isinstance(error, RevisionNotFoundError):
        return "the repository has no such revision"
    if status == 403:
        return f"this login may not do that (403): use a token with write access to the repository, or {LOG_IN}"
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        return f"the hub has no such repository, or hides it from this login: check the name, or {LOG_IN}"
    if isinstance(error, HFValidationError):
        return f"this is no name of a repository ({first_line(error)})"
    if isinstance(error, OfflineModeIsEnabled) or "HF_HUB_OFFLINE" in str(error):
        return "HF_HUB_OFFLINE is set, and there is no local copy"
    if isinstance(error, LocalEntryNotFoundError):
        return "the hub cannot be reached, and there is no complete local copy: check the network"
    if status:
        return f"the hub answers {status} ({first_line(error)})"
    return f"the hub cannot be reached ({first_line(error)}): check the network"


@contextmanager
def hub_errors(about: str) -> Iterator[None]:
    """Turn the errors of huggingface_hub in the block into a UserError that begins with `about`."""
    try:
        yield
    except (HTTPError, HFValidationError, OSError) as error:  # the network's errors are of one of these classes
        raise UserError(f"{about}: {explain(error)}") from error
