"""The tables of Deepwell's own state. A change here needs a migration in `migrations/versions/`.

Times are seconds since 1970 (UTC) as floats: SQLite has no time zones, and clients format them.
"""

import sqlalchemy as sa

metadata = sa.MetaData()

#: revision of the newest migration; `services.store.migrate` refuses a database that is ahead of it
SCHEMA = "0005"

knowledge_bases = sa.Table(
    "knowledge_bases",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False, unique=True),
    sa.Column("description", sa.Text, nullable=False, default=""),
    # EmbeddingIdentity as JSON, bound by the first document
    sa.Column("embedding", sa.JSON(none_as_null=True)),
    sa.Column("created", sa.Float(53), nullable=False),
    # how the model of `embedding` is reached, see services.embedders; NULL for the one that the settings name
    sa.Column("embedder", sa.JSON(none_as_null=True)),
    # since when its ingestion is paused
    sa.Column("paused", sa.Float(53)),
    # job that deletes it; "" while it lives
    sa.Column("job_id", sa.String(100), nullable=False, default=""),
    sa.Column("deleted", sa.Float(53)),
)

documents = sa.Table(
    "documents",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("knowledge_base_id", sa.String(32), sa.ForeignKey("knowledge_bases.id"), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("source", sa.Text, nullable=False, default=""),
    sa.Column("media_type", sa.String(200), nullable=False, default=""),
    sa.Column("size", sa.BigInteger, nullable=False, default=0),
    sa.Column("sha256", sa.String(64), nullable=False),
    # content of the version that searches see; "" before the first success
    sa.Column("indexed_sha256", sa.String(64), nullable=False, default=""),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("step", sa.String(16), nullable=False, default=""),
    sa.Column("error", sa.Text, nullable=False, default=""),
    sa.Column("error_code", sa.String(64), nullable=False, default=""),
    sa.Column("chunks", sa.Integer, nullable=False, default=0),
    sa.Column("pages_done", sa.Integer, nullable=False, default=0),
    sa.Column("pages_total", sa.Integer, nullable=False, default=0),
    sa.Column("eta", sa.Float(53)),
    # the one job that may change this document
    sa.Column("job_id", sa.String(100), nullable=False, default=""),
    # how often that job was begun without getting anywhere
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    sa.Column("created", sa.Float(53), nullable=False),
    sa.Column("updated", sa.Float(53), nullable=False),
    # tombstone: invisible from then on
    sa.Column("deleted", sa.Float(53)),
    # the source it comes from, what it is called there, and which version of it this is; NULL for an upload
    sa.Column("source_id", sa.String(32), index=True),
    sa.Column("external_id", sa.Text),
    sa.Column("version", sa.Text),
    sa.UniqueConstraint("knowledge_base_id", "name"),
    sa.Index("documents_by_state", "state"),
    sa.Index("documents_by_sha256", "sha256"),
)


def _passage_columns() -> list[sa.Column[object]]:
    return [
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("document_id", sa.String(32), nullable=False),
        sa.Column("knowledge_base_id", sa.String(32), nullable=False, index=True),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("page", sa.Integer),
        sa.Column("page_end", sa.Integer),
        sa.Column("heading", sa.Text, nullable=False, default=""),
        sa.Column("start", sa.Integer, nullable=False, default=0),
        sa.Column("end", sa.Integer, nullable=False, default=0),
        sa.Column("text", sa.Text, nullable=False),
    ]


#: what searches see
chunks = sa.Table("chunks", metadata, *_passage_columns(), sa.Index("chunks_in_order", "document_id", "position"))

#: the next version of a document, while its job runs
staged_chunks = sa.Table(
    "staged_chunks",
    metadata,
    *_passage_columns(),
    # its vector is in the index
    sa.Column("embedded", sa.Boolean, nullable=False, default=False),
    # the same passage is in the version that searches see: nothing to write to any index
    sa.Column("kept", sa.Boolean, nullable=False, default=False),
    sa.Index("staged_chunks_in_order", "document_id", "position"),
)

#: chunk ids that no version needs any more, until they are gone from the indexes
stale_chunks = sa.Table(
    "stale_chunks",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("document_id", sa.String(32), nullable=False, index=True),
    sa.Column("knowledge_base_id", sa.String(32), nullable=False, index=True),
)
sources = sa.Table(
    "sources",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("knowledge_base_id", sa.String(32), sa.ForeignKey("knowledge_bases.id"), nullable=False, index=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("location", sa.Text, nullable=False),
    # what the kind of source takes; never a secret (services.credentials)
    sa.Column("options", sa.JSON, nullable=False),
    # "15m", a cron line, or "" for on demand
    sa.Column("schedule", sa.String(100), nullable=False, default=""),
    sa.Column("watch", sa.Boolean, nullable=False, default=False),
    # why changes are not seen at once though they should be
    sa.Column("watch_error", sa.Text, nullable=False, default=""),
    # of its last sync, "" before the first
    sa.Column("state", sa.String(16), nullable=False, default=""),
    sa.Column("step", sa.String(16), nullable=False, default=""),
    sa.Column("error", sa.Text, nullable=False, default=""),
    sa.Column("error_code", sa.String(64), nullable=False, default=""),
    sa.Column("done", sa.Integer, nullable=False, default=0),
    sa.Column("total", sa.Integer, nullable=False, default=0),
    sa.Column("counts", sa.JSON, nullable=False),
    sa.Column("problems", sa.JSON, nullable=False),
    # the one job that may change this source
    sa.Column("job_id", sa.String(100), nullable=False, default=""),
    sa.Column("attempts", sa.Integer, nullable=False, default=0),
    # the sync may delete everything
    sa.Column("allow_empty", sa.Boolean, nullable=False, default=False),
    # when the next sync is to begin
    sa.Column("due", sa.Float(53)),
    sa.Column("began", sa.Float(53)),
    sa.Column("ended", sa.Float(53)),
    sa.Column("created", sa.Float(53), nullable=False),
    sa.Column("updated", sa.Float(53), nullable=False),
    sa.Column("deleted", sa.Float(53)),
)

#: what a source has and no document came of: of a kind nobody reads, too large. Not fetched again until it changes
left_out = sa.Table(
    "left_out",
    metadata,
    # hash of source and external id, which may be longer than an index takes
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("source_id", sa.String(32), nullable=False, index=True),
    sa.Column("external_id", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("code", sa.String(64), nullable=False),
    sa.Column("error", sa.Text, nullable=False),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    # SHA-256 of the secret: 240 random bits need no salt and no slow hash, and a secret chosen for a client that
    # cannot send another one ("ollama") is no secret anyway
    sa.Column("hash", sa.String(64), nullable=False, unique=True),
    sa.Column("scopes", sa.JSON, nullable=False),
    sa.Column("knowledge_bases", sa.JSON(none_as_null=True)),
    sa.Column("created", sa.Float(53), nullable=False),
    sa.Column("revoked", sa.Float(53)),
    sa.Column("last_used", sa.Float(53)),
    # limits of its own; None takes those of the settings, 0 is no limit
    sa.Column("requests_per_minute", sa.Integer),
    sa.Column("concurrent_answers", sa.Integer),
    # how its client wants answers (services.delivery): {"client", "reasoning_format", "sources_list"}, what is set
    sa.Column("options", sa.JSON(none_as_null=True)),
)
