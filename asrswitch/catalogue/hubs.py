"""What a hub states of a published file, and where the file's content is: Hugging Face and ModelScope.

huggingface_hub is imported only here and in ``download``, when something is fetched.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping

import msgspec

from asrswitch.catalogue.published import Host, Published, PublishedFile
from asrswitch.errors import AsrSwitchError

_TIMEOUT_S = 30.0
_MOST_LIST_BYTES = 16 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_GIT_BLOB = re.compile(r"[0-9a-f]{40}", re.ASCII)


class UnreachableError(AsrSwitchError):
    """There was no answer that could be used; the message says whose and why."""


class AbsentError(AsrSwitchError):
    """The hub has no such file, or not for us."""


class Remote(msgspec.Struct, frozen=True):
    """A file as the hub states it; None where it does not."""

    url: str
    headers: dict[str, str]
    bytes: int | None
    sha256: str | None
    git_blob: str | None  # SHA-1 of a small file as a git object


def web_address(item: Published, file: PublishedFile, environ: Mapping[str, str]) -> str:
    """Where anybody can download the file."""
    endpoint = _endpoint(item.host, environ)
    place = f"{item.repository}/resolve/{item.revision}/{file.path}"
    return f"{endpoint}/{place}" if item.host is Host.HUGGING_FACE else f"{endpoint}/models/{place}"


def ask(item: Published, file: PublishedFile, environ: Mapping[str, str]) -> Remote:
    """Ask the hub about a file.

    Raises:
        UnreachableError: no answer.
        AbsentError: it says that there is no such file, or that we may not have it.
    """
    if item.host is Host.MODELSCOPE:
        return _ask_modelscope(item, file, environ)
    return _ask_hugging_face(item, file, environ)


def _endpoint(host: Host, environ: Mapping[str, str]) -> str:
    """The hub, or the mirror that its own client's variable names."""
    if host is Host.HUGGING_FACE:
        return environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
    domain = environ.get("MODELSCOPE_DOMAIN", "").rstrip("/") or "www.modelscope.cn"
    return domain if "://" in domain else f"https://{domain}"


def _ask_hugging_face(item: Published, file: PublishedFile, environ: Mapping[str, str]) -> Remote:
    from huggingface_hub import errors, get_hf_file_metadata, get_token

    endpoint = _endpoint(item.host, environ)
    url = web_address(item, file, environ)
    try:
        stated = get_hf_file_metadata(url, timeout=_TIMEOUT_S)
    except errors.GatedRepoError:
        raise AbsentError(
            f"{url}: {endpoint} gives it only to those who accepted its terms; "
            "accept them there and set HF_TOKEN"
        ) from None
    except (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.EntryNotFoundError,
    ):
        raise AbsentError(f"{url}: {endpoint} has no such file; a mirror may lack it (HF_ENDPOINT)") from None
    except AsrSwitchError:  # a signal came
        raise
    except Exception as error:  # of several HTTP libraries, by huggingface_hub's version
        raise UnreachableError(f"{endpoint} cannot be reached ({_reason(error)})") from None
    etag = stated.etag or ""
    return Remote(
        url=url,
        headers={"authorization": f"Bearer {token}"} if (token := get_token()) else {},
        bytes=stated.size,
        sha256=etag if _SHA256.fullmatch(etag) else None,
        git_blob=etag if _GIT_BLOB.fullmatch(etag) else None,
    )


def _ask_modelscope(item: Published, file: PublishedFile, environ: Mapping[str, str]) -> Remote:
    """From the list of the repository's files, which has their sizes and sums."""
    endpoint = _endpoint(item.host, environ)
    base = f"{endpoint}/api/v1/models/{item.repository}/repo"
    revision = urllib.parse.quote_plus(item.revision)
    try:
        with urllib.request.urlopen(
            f"{base}/files?Revision={revision}&Recursive=true", timeout=_TIMEOUT_S
        ) as reply:
            answer = json.loads(reply.read(_MOST_LIST_BYTES))
        files = {entry["Path"]: entry for entry in answer["Data"]["Files"]}
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            raise AbsentError(f"{item.repository}: {endpoint} does not show it (HTTP {error.code})") from None
        raise UnreachableError(f"{endpoint} cannot be reached (HTTP {error.code})") from None
    except (OSError, ValueError) as error:
        raise UnreachableError(f"{endpoint} cannot be reached ({_reason(error)})") from None
    except (KeyError, TypeError):
        raise UnreachableError(f"{endpoint} does not answer as ModelScope does") from None
    entry = files.get(file.path)
    if entry is None:
        raise AbsentError(f"{item.repository}: {endpoint} has no {file.path} in it")
    size, digest = entry.get("Size"), str(entry.get("Sha256") or "").lower()
    return Remote(
        url=f"{base}?Revision={revision}&FilePath={urllib.parse.quote_plus(file.path)}",
        headers={},
        bytes=size if isinstance(size, int) and size >= 0 else None,
        sha256=digest if _SHA256.fullmatch(digest) else None,
        git_blob=None,
    )


def _reason(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(getattr(error, "reason", "") or error).strip() or type(error).__name__).splitlines()[0]
