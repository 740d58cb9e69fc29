"""Sections of the settings that concern whoever operates Deepwell: logs, metrics, traces."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class Section(BaseModel):
    """A part of the settings; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LogSettings(Section):
    """Logging."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level written.")
    format: Literal["text", "json"] = Field("text", description="Form of a log line.")
    questions: bool = Field(False, description="Write the text of questions into the log; else only how they ended.")


class MetricsSettings(Section):
    """Prometheus metrics on ports of their own, without a key. `/metrics` of the service asks for an admin's."""

    host: str = Field(
        "127.0.0.1", description="Address of these ports; anything beyond loopback is open to its network."
    )
    port: int = Field(0, ge=0, le=65535, description="Port of the service's metrics; 0 opens none.")
    worker_port: int = Field(0, ge=0, le=65535, description="Port of the worker's metrics; 0 opens none.")


class TracingSettings(Section):
    """OpenTelemetry traces of questions and ingestions, with the extra `otel`."""

    endpoint: str = Field(
        "",
        description="Base URL of an OTLP/HTTP receiver, such as http://localhost:4318; empty traces nothing. "
        "OTEL_EXPORTER_OTLP_ENDPOINT is taken where this is not set.",
    )
    ratio: float = Field(1.0, ge=0, le=1, description="Share of requests and jobs that are traced.")


class ClientSettings(Section):
    """`deepwell client`: a chat with any OpenAI-compatible server."""

    url: str = Field("", description="Base URL of the server; empty is the Deepwell of the data directory.")
    token: SecretStr = Field(SecretStr(""), description="Key or token for that server.")
    model: str = Field("", description="Model to talk to; empty takes the first one that the server lists.")


class SyncSettings(Section):
    """Where sources may take documents from."""

    folders: str = Field(
        "",
        description="Folders, separated by commas, that sources of this machine's files may lie in. `deepwell source "
        "add folder` on this machine allows the folder it names.",
    )
    private_hosts: str = Field(
        "",
        description="Hosts and networks, separated by commas, that sources may be fetched from though they are "
        "private: wiki.example.com, *.corp.example, 10.0.0.0/8; * for all.",
    )
