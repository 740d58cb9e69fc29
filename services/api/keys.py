"""API keys: make, list, revoke."""

from fastapi import APIRouter

from pipelines.errors import Conflict, Forbidden, NotFound
from services.api.deps import Parts, iso
from services.api.schemas import Key, KeyCreate, KeyCreated, Keys
from services.auth import Admin
from services.build import Deepwell
from services.delivery import check_options
from services.errors import responses
from services.store import records

router = APIRouter(prefix="/v1/keys", tags=["keys"])
OPTIONS = ("client", "reasoning_format", "sources_list")


@router.post("", status_code=201, responses=responses(Conflict, Forbidden, NotFound))
async def create_key(body: KeyCreate, caller: Admin, deepwell: Parts) -> KeyCreated:
    """Make a key. Its secret is in this answer and nowhere else: only a hash is kept."""
    if caller.knowledge_bases is not None:
        raise Forbidden(f"key {caller.name!r} is bound to its knowledge bases and cannot make keys")
    if any(key.name == body.name and key.revoked is None for key in await deepwell.store.keys.list()):
        raise Conflict(f"there is a key {body.name!r} already: revoke it, or take another name")
    bound = None
    if body.knowledge_bases is not None:
        bound = await deepwell.knowledge_base_ids(caller, body.knowledge_bases)
    key, secret = await deepwell.store.keys.create(
        body.name,
        body.scopes,
        bound,
        secret=body.secret,
        requests_per_minute=body.requests_per_minute,
        concurrent_answers=body.concurrent_answers,
        options=check_options({name: getattr(body, name) for name in OPTIONS}),
    )
    return KeyCreated(**(await shown(deepwell, key)).model_dump(), key=secret)


@router.get("", responses=responses(Forbidden))
async def list_keys(caller: Admin, deepwell: Parts, revoked: bool = False) -> Keys:
    """The keys in force, oldest first; with `revoked` those that are not, too. No secret is shown."""
    every = await deepwell.store.keys.list()
    return Keys(keys=[await shown(deepwell, key) for key in every if revoked or key.revoked is None])


@router.delete("/{key}", responses=responses(Conflict, Forbidden, NotFound))
async def revoke_key(key: str, caller: Admin, deepwell: Parts) -> Key:
    """Make a key invalid, by id or name: here at once, in other processes within 5 s."""
    if caller.knowledge_bases is not None:
        raise Forbidden(f"key {caller.name!r} is bound to its knowledge bases and cannot revoke keys")
    found = await find(deepwell, key)
    if found.id == caller.key_id:
        raise Conflict("this is the key you are using: revoke it with another one, or nobody could get in again")
    return await shown(deepwell, await deepwell.store.keys.revoke(found.id))


async def find(deepwell: Deepwell, name: str) -> records.Key:
    """A key in force, by id or name. Raises NotFound, Conflict if several have the name."""
    valid = [key for key in await deepwell.store.keys.list() if key.revoked is None and name in (key.id, key.name)]
    if not valid:
        raise NotFound(f"there is no key {name!r} in force")
    if len(valid) > 1:
        raise Conflict(f"several keys are called {name!r}: name one by its id: {', '.join(key.id for key in valid)}")
    return valid[0]


async def shown(deepwell: Deepwell, key: records.Key) -> Key:
    """A key as the API shows it."""
    bound = key.knowledge_bases
    return Key(
        id=key.id,
        name=key.name,
        scopes=sorted(key.scopes),
        knowledge_bases=None if bound is None else [await deepwell.knowledge_base_name(base) for base in sorted(bound)],
        requests_per_minute=key.requests_per_minute,
        concurrent_answers=key.concurrent_answers,
        created=iso(key.created),
        last_used=None if key.last_used is None else iso(key.last_used),
        revoked=None if key.revoked is None else iso(key.revoked),
        **{name: key.options[name] for name in OPTIONS if name in key.options},
    )
