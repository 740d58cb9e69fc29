"""API keys: only the hash is kept."""

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Collection, Mapping
from typing import Any, get_args

import sqlalchemy as sa

from pipelines.errors import BadRequest, Conflict, NotFound, StorageFull, Unavailable
from pipelines.types import Caller, Scope
from services.store.database import Database, Row
from services.store.names import new_id
from services.store.records import Key
from services.store.tables import keys

log = logging.getLogger(__name__)

PREFIX = "dw-"
#: seconds during which a revoked key may still work in another process
CACHE_SECONDS = 5.0
#: seconds between two notes of when a key was last used
USE_SECONDS = 60.0
_CACHE_SIZE = 1024
#: a secret that somebody chose may be guessed; below this length it opens neither ingestion nor administration
_GUESSABLE = 24


def hash_secret(secret: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Keys:
    """Keys by the hash of their secret."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cache: dict[str, tuple[float, Key | None]] = {}
        self._asked: dict[str, asyncio.Future[Key | None]] = {}  # look-ups under way
        self._changes = 0

    async def create(
        self,
        name: str,
        scopes: Collection[Scope],
        knowledge_bases: Collection[str] | None = None,
        *,
        secret: str = "",
        requests_per_minute: int | None = None,
        concurrent_answers: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Key, str]:
        """A new key and its secret, shown this once: `dw-` and 40 URL-safe characters.

        `secret` registers one that a client sends whether one likes it or not, such as "ollama". Limits of None take
        those of the settings, 0 is no limit; `options` are those of services.delivery. Raises
        BadRequest, Conflict if the secret is in use.
        """
        unknown = sorted(set(scopes) - set(get_args(Scope)))
        if unknown or not scopes:
            raise BadRequest(f"a key needs scopes out of {', '.join(get_args(Scope))}, not {', '.join(unknown) or '-'}")
        if not 1 <= len(name) <= 200:
            raise BadRequest("a key's name has 1 to 200 characters")
        _check_secret(secret, scopes)
        secret = secret or PREFIX + secrets.token_urlsafe(30)
        row = {
            "id": new_id("key"),
            "name": name,
            "hash": hash_secret(secret),
            "scopes": sorted(set(scopes)),
            "knowledge_bases": None if knowledge_bases is None else sorted(set(knowledge_bases)),
            "created": time.time(),
            "requests_per_minute": requests_per_minute,
            "concurrent_answers": concurrent_answers,
            "options": dict(options or {}),
        }
        try:
            async with self._database.write() as connection:
                await connection.execute(_forget_revoked(str(row["hash"])))
                await connection.execute(keys.insert(), row)
        except sa.exc.IntegrityError:
            raise Conflict(
                "another key has this secret already: revoke that one first (`deepwell keys list`)"
            ) from None
        self._forget()
        return await self.get(str(row["id"])), secret

    async def get(self, key_id: str) -> Key:
        """One by its id. Raises NotFound."""
        row = await self._database.row(sa.select(keys).where(keys.c.id == key_id))
        if row is None:
            raise NotFound(f"there is no key {key_id!r}")
        return _record(row)

    async def revoke(self, key_id: str) -> Key:
        """Make it invalid: here at once, in other processes within CACHE_SECONDS. Raises NotFound."""
        async with self._database.write() as connection:
            await connection.execute(
                keys.update().where(keys.c.id == key_id, keys.c.revoked.is_(None)).values(revoked=time.time())
            )
        self._forget()
        return await self.get(key_id)

    async def caller(self, secret: str) -> Caller | None:
        """Who has this secret; None if nobody, or revoked. Answers from memory for CACHE_SECONDS."""
        key = await self.find(secret)
        return None if key is None else caller_of(key)

    async def find(self, secret: str) -> Key | None:
        """The key with this secret; None if there is none, or it is revoked. From memory for CACHE_SECONDS."""
        digest = hash_secret(secret)
        now = time.monotonic()
        known = self._cache.get(digest)
        if known and known[0] > now:
            return known[1]
        asked = self._asked.get(digest)
        if asked is None:  # many requests at once with the same key ask the database once
            asked = self._asked[digest] = asyncio.ensure_future(self._look_up(digest))
            asked.add_done_callback(lambda done: self._asked.pop(digest) if self._asked.get(digest) is done else None)
            key = await asyncio.shield(asked)
            if key is not None and time.time() - (key.last_used or 0) > USE_SECONDS:
                await self._note_use(key.id)
            return key
        return await asyncio.shield(asked)

    async def _look_up(self, digest: str) -> Key | None:
        began, changes = time.monotonic(), self._changes
        row = await self._database.row(sa.select(keys).where(keys.c.hash == digest, keys.c.revoked.is_(None)))
        key = _record(row) if row else None
        if changes == self._changes:  # else it may have been revoked meanwhile
            if len(self._cache) >= _CACHE_SIZE:  # a flood of invented keys must not fill the memory
                self._cache.clear()
            self._cache[digest] = (began + CACHE_SECONDS, key)
        return key

    def _forget(self) -> None:
        """Ask the database again: a key was made or revoked."""
        self._changes += 1
        self._cache.clear()
        self._asked.clear()

    async def registered(self, secret: str) -> bool:
        """Whether a key has this secret, or had it until it was revoked."""
        return await self._database.row(sa.select(keys.c.id).where(keys.c.hash == hash_secret(secret))) is not None

    async def _note_use(self, key_id: str) -> None:
        try:
            async with self._database.write() as connection:
                await connection.execute(keys.update().where(keys.c.id == key_id).values(last_used=time.time()))
        except (StorageFull, Unavailable) as error:  # a full disk must not keep people from asking
            log.warning("cannot note when key %s was last used: %s", key_id, error)

    async def list(self) -> list[Key]:
        """All of them, oldest first, revoked ones too."""
        return [_record(row) for row in await self._database.rows(sa.select(keys).order_by(keys.c.created))]


def _record(row: Row) -> Key:
    return Key(
        id=row.id,
        name=row.name,
        scopes=frozenset(row.scopes),
        knowledge_bases=None if row.knowledge_bases is None else frozenset(row.knowledge_bases),
        created=row.created,
        revoked=row.revoked,
        last_used=row.last_used,
        requests_per_minute=row.requests_per_minute,
        concurrent_answers=row.concurrent_answers,
        options=row.options or {},
    )


def _check_secret(secret: str, scopes: Collection[Scope]) -> None:
    if not secret:
        return
    if not (secret.isascii() and secret.isprintable() and " " not in secret and len(secret) <= 200):
        raise BadRequest("a key's secret has 1 to 200 printable ASCII characters without blanks: it goes into a header")
    if len(secret) < _GUESSABLE and {"ingest", "admin"} & set(scopes):
        raise BadRequest(
            f"a chosen secret of fewer than {_GUESSABLE} characters can be guessed: it may have the scopes chat and "
            "retrieve only; leave --secret away for a random one"
        )


def _forget_revoked(digest: str) -> sa.Update:
    """A chosen secret may be registered again after it was revoked: its old row keeps a hash that no secret has."""
    return keys.update().where(keys.c.hash == digest, keys.c.revoked.is_not(None)).values(hash="revoked-" + keys.c.id)


def caller_of(key: Key) -> Caller:
    """Who asks with this key."""
    return Caller(name=key.name, scopes=key.scopes, knowledge_bases=key.knowledge_bases, key_id=key.id)
