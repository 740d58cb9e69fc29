"""Where model weights are downloaded from: what a hub offers, and the words shared by the files beside this one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import httpx

from pipelines.errors import Forbidden, NotFound, RagError, SourceUnavailable

TOKEN = "DEEPWELL_HUB__TOKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file on a hub, as the hub describes it."""

    #: what messages call it, e.g. "unsloth/X-GGUF/X-Q4_K_M.gguf"
    name: str
    url: str
    #: bytes; None if the hub does not say
    size: int | None
    #: hex digest; None if the hub does not say
    sha256: str | None
    #: web page with the licence
    page: str = ""
    #: sent with the request; httpx drops Authorization and Cookie on a redirect to another host
    headers: Mapping[str, str] = field(default_factory=dict)


class Hub(Protocol):
    """What a file in this folder offers."""

    async def resolve(
        self, client: httpx.AsyncClient, repository: str, file: str, *, mirror: str = "", token: str = ""
    ) -> RemoteFile:
        """Find a file of a repository. Raises Forbidden, NotFound or SourceUnavailable."""
        ...


def refusal(status: int, name: str, page: str) -> RagError:
    """The error for an answer of a hub that is neither a file nor a redirect."""
    if status in (401, 403):
        return Forbidden(
            f"the hub does not give {name} without permission (HTTP {status}): accept its licence at {page}, "
            f"then set {TOKEN} to an access token of the same account"
        )
    if status == 404:
        return NotFound(f"the hub has no {name} (HTTP 404): see {page}, or check the mirror in DEEPWELL_HUB__MIRROR")
    return SourceUnavailable(f"the hub answered HTTP {status} for {name}: try again later, or set DEEPWELL_HUB__MIRROR")
