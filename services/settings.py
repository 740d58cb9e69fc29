"""Every setting, read once at start; nothing else reads the environment.

Order: command line, then environment (`DEEPWELL_…`, sections joined with `__`; with `_FILE` behind it the value is
read from the file named, for secrets), then `deepwell.toml` in the working directory (or the file that
`DEEPWELL_CONFIG` names), then the default. Unknown names are refused, so that a typing error never becomes a default
in silence. `Settings.sources` says where each value came from (`deepwell doctor`).
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import Field, PrivateAttr, SecretStr, ValidationError

from pipelines.errors import BadRequest
from services.choices import wrong_choice
from services.model_settings import ChatSettings, EmbeddingSettings, RerankSettings
from services.sections import ClientSettings, LogSettings, MetricsSettings, Section, SyncSettings, TracingSettings
from services.setting_sources import PREFIX, from_environment, from_file


class ServerSettings(Section):
    """The HTTP service."""

    host: str = Field("127.0.0.1", description="Address to listen on. Anything beyond loopback needs API keys.")
    port: int = Field(8100, ge=0, le=65535, description="Port of the HTTP service; 0 takes a free one.")
    max_upload_mb: int = Field(512, ge=1, description="Largest file that can be uploaded, in MiB.")
    public_url: str = Field("", description="Address under which readers reach the service; used in citation links.")
    open_loopback: bool = Field(
        False,
        description="Programs on this machine may ask and search without a key. Only when listening on loopback.",
    )
    citation_days: int = Field(
        365,
        ge=0,
        le=20_000,
        description="Days for which a citation's signed link opens without a key; 0 sets no end.",
    )
    citation_secret: SecretStr = Field(
        SecretStr(""),
        description="Secret that signs citation links, of 32 characters or more; the same for several services on one "
        "database. Empty keeps one in the data directory.",
    )
    stored_responses: int = Field(
        1000,
        ge=0,
        description="Answers of /v1/responses kept in memory for an hour, for clients that name them; 0: none.",
    )
    cors_origins: str = Field(
        "loopback",
        description="Web pages that may call the service: loopback, * for all, or origins separated by commas.",
    )


class KeySettings(Section):
    """Limits of an API key that has none of its own."""

    requests_per_minute: int = Field(0, ge=0, description="Requests of one key in a minute; 0 sets no limit.")
    concurrent_answers: int = Field(0, ge=0, description="Answers of one key at the same time; 0 sets no limit.")
    client: SecretStr = Field(
        SecretStr(""),
        description="Secret of a key that is made at the start, for a chat client deployed with the service; "
        "it may ask and search. Empty makes none.",
    )


class IndexSettings(Section):
    """The vector database."""

    url: str = Field("", description="URL of a Milvus server; empty starts Milvus Lite embedded.")
    token: SecretStr = Field(SecretStr(""), description="Token of the Milvus server, `user:password` or an API key.")
    database: str = Field("", description="Milvus database; empty for the default one.")
    kind: str = Field("AUTOINDEX", description="Index type: AUTOINDEX, HNSW, HNSW_SQ, IVF_FLAT or IVF_SQ8.")
    lexical: str = Field(
        "tantivy", description="Full-text index: tantivy (embedded) or milvus_bm25 (a Milvus server of 2.5 or newer)."
    )


class StoreSettings(Section):
    """Own state: knowledge bases, documents, chunks, keys, jobs."""

    url: str = Field(
        "", description="SQLAlchemy URL; empty takes SQLite in the data directory. PostgreSQL: postgresql://…"
    )
    password: SecretStr = Field(SecretStr(""), description="Password of the user in store.url, where that has none.")


class RetrievalSettings(Section):
    """How passages are found."""

    top_k: int = Field(6, ge=1, le=100, description="Passages given to the model.")
    candidates: int = Field(50, ge=1, le=1000, description="Passages each search leg brings to the fusion.")
    min_score: float = Field(0.0, ge=0, le=1, description="Passages below this fused score are left out.")
    neighbours: int = Field(
        0, ge=0, le=5, description="Passages before and after each, read by the model where the window has room."
    )


class IngestSettings(Section):
    """How documents become passages."""

    chunk_tokens: int = Field(
        300, ge=32, le=2048, description="Tokens of a passage, in the embedding model's vocabulary."
    )
    chunk_overlap: int = Field(40, ge=0, le=512, description="Tokens shared by neighbouring passages.")
    parse_timeout: float = Field(120.0, gt=0, description="Seconds a parser may take for one document, OCR apart.")
    ocr: bool = Field(True, description="Read pages that are pictures, where the extra `ocr` is installed.")
    pdf_tables: bool = Field(
        False, description="Keep ruled tables of PDFs as tables, also over pages: slower, needs the extra `tables`."
    )
    parse_memory_mb: int = Field(2048, ge=128, description="Memory a parser process may use, in MiB.")
    parse_processes: int = Field(1, ge=1, description="Documents parsed at once.")
    batch: int = Field(64, ge=1, description="Passages embedded and written at once.")


class HubSettings(Section):
    """Where model weights are downloaded from, only when asked."""

    name: str = Field("huggingface", description="Hub for `deepwell models pull`: huggingface or modelscope.")
    mirror: str = Field("", description="Base URL of a mirror; empty takes the hub's own address.")
    token: SecretStr = Field(SecretStr(""), description="Token for gated models.")


class Settings(Section):
    """All settings of one Deepwell."""

    data_dir: Path = Field(Path("deepwell-data"), description="Directory of everything Deepwell keeps.")
    url: str = Field("", description="Address the CLI talks to; empty finds the server of the data directory.")
    api_key: SecretStr = Field(SecretStr(""), description="Key the CLI sends; empty takes the data directory's own.")
    server: ServerSettings = ServerSettings()
    keys: KeySettings = KeySettings()
    chat: ChatSettings = ChatSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()
    rerank: RerankSettings = RerankSettings()
    index: IndexSettings = IndexSettings()
    store: StoreSettings = StoreSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    ingest: IngestSettings = IngestSettings()
    sync: SyncSettings = SyncSettings()
    hub: HubSettings = HubSettings()
    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()
    tracing: TracingSettings = TracingSettings()
    client: ClientSettings = ClientSettings()

    _sources: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def sources(self) -> Mapping[str, str]:
        """Where each value that is not a default came from, by dotted name: "environment", the file, "command line"."""
        return self._sources

    def store_url(self) -> str:
        """SQLAlchemy URL of the own state, password included."""
        url, password = self.store.url, self.store.password.get_secret_value()
        scheme, separator, rest = url.partition("://")
        user, at, place = rest.rpartition("@")
        if password and at and ":" not in user:
            return f"{scheme}{separator}{user}:{quote(password, safe='')}@{place}"
        return url or f"sqlite:///{self.data_dir.absolute() / 'state.db'}"

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, for a child process; secrets included."""
        return {PREFIX + name.upper().replace(".", "__"): value for name, value in flatten(self, reveal=True).items()}


def flatten(settings: Section, prefix: str = "", reveal: bool = False) -> dict[str, str]:
    """Every value by dotted name, as text; secrets as ****** unless `reveal`."""
    values: dict[str, str] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Section):
            values |= flatten(value, f"{prefix}{name}.", reveal)
        elif isinstance(value, SecretStr):
            values[prefix + name] = value.get_secret_value() if reveal else str(value)
        else:
            values[prefix + name] = str(value)
    return values


def load_settings(overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings in force.

    `overrides` are command-line values by dotted name ("server.port"); None values are skipped. Raises BadRequest
    that names the setting and where it was set.
    """
    environ = os.environ if environ is None else environ
    path = Path(environ.get(PREFIX + "CONFIG", "deepwell.toml"))
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    layers = (
        (from_file(path, PREFIX + "CONFIG" in environ), str(path)),
        (from_environment(environ), "environment"),
        ({name: value for name, value in (overrides or {}).items() if value is not None}, "command line"),
    )
    for layer, source in layers:
        for name, value in layer.items():
            _set(values, name, value)
            sources[name] = source
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise BadRequest(_explain(error, sources)) from None
    settings._sources.update(sources)
    if wrong := wrong_choice(settings):
        raise BadRequest(f"setting {_where(wrong[0], sources)}: {wrong[1]}")
    return settings


def _set(values: dict[str, Any], name: str, value: Any) -> None:
    section, dot, key = name.partition(".")
    if dot and isinstance(values.setdefault(section, {}), dict):
        values[section][key] = value
    else:
        values[section if not dot else name] = value


def _explain(error: ValidationError, sources: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        what = _unknown(name) if problem["type"] == "extra_forbidden" else problem["msg"]
        lines.append(f"setting {_where(name, sources)}: {what}")
    return "; ".join(lines) + ". Once that is put right, `deepwell doctor` shows every setting"


def _where(name: str, sources: Mapping[str, str]) -> str:
    return f"{name} ({PREFIX}{name.upper().replace('.', '__')}, from {sources.get(name, 'default')})"


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, flatten(Settings()), n=1)
    return "there is no such setting" + (f"; did you mean {near[0]}?" if near else "")
