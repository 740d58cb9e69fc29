"""What is asked of the planner and what it answers."""

from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.errors import BadRequest
from pipelines.planner.architecture import Architecture
from pipelines.planner.engines import EngineRow
from pipelines.planner.hardware import Hardware
from pipelines.planner.layouts import Layout

#: tokens of a question with its passages, and of an answer without thinking, as planned by default
PROMPT_TOKENS, ANSWER_TOKENS = 3000, 500
#: window planned by default: a question with passages, a long thought and an answer
CONTEXT = 16384


class DoesNotFit(BadRequest):
    """The hardware has too little memory for what is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A model, the hardware and the load. 0, "" and None leave a choice to the planner."""

    model: Architecture
    hardware: Hardware
    engine: str = "auto"
    #: bf16, fp16, fp8, awq, gptq or a GGUF type
    quantization: str = ""
    dtype: str = "auto"
    kv_dtype: str = "auto"
    #: tokens of one request's window, thinking included
    context: int = 0
    users: int = 0
    prompt: int = PROMPT_TOKENS
    thinking: int = -1
    answer: int = ANSWER_TOKENS
    tensor: int = 0
    pipeline: int = 0
    utilization: float = 0.0
    sequences: int = 0
    batch_tokens: int = 0
    eager: bool | None = None
    #: load the module for multi-token prediction and speculate with it
    mtp: bool = False
    #: bytes of the weights, where a real file is at hand
    file_bytes: int = 0

    def resolved(self) -> "Request":
        """The same with a window and a number of users."""
        return replace(self, context=self.context or min(CONTEXT, self.model.context), users=self.users or 1)

    @property
    def thinking_tokens(self) -> int:
        """Tokens of a thought."""
        return self.model.thinking_tokens if self.thinking < 0 else self.thinking

    @property
    def request_tokens(self) -> int:
        """Tokens of one whole question with its passages, thinking and answer."""
        return self.prompt + self.thinking_tokens + self.answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Upper bounds, and what to expect of them."""

    #: tokens a second of one request alone, and of all users together
    one: float
    all: float
    batch: int
    #: requests at once from which arithmetic is the limit
    compute_bound_batch: float
    #: seconds until the prompt is read, and until the answer ends, thinking included
    prefill: float
    answer: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a request comes to. Bytes are those of the fullest GPU (or of the machine's memory without one)."""

    request: Request
    row: EngineRow
    quantization: str
    dtype: str
    layout: Layout
    #: part -> bytes
    memory: dict[str, float]
    #: bytes of KV cache a token, over all GPUs and on the fullest one
    kv_token: float
    kv_token_gpu: float
    #: tokens of KV cache of one copy
    kv_tokens: int
    block: int
    #: requests admitted at once by one copy
    sequences: int
    batch_tokens: int
    utilization: float
    eager: bool
    #: layers on GPUs; the others are computed by the CPU
    gpu_layers: int
    download: int
    speed: Speed | None
    warnings: list[str] = field(default_factory=list)
    #: other layouts that fit, with the tokens they hold
    others: list[tuple[Layout, int]] = field(default_factory=list)

    @property
    def disk(self) -> int:
        """Bytes of disk for the files, with a tenth to spare; they are loaded where they lie."""
        return round(self.download * 1.1)

    @property
    def copies_per_node(self) -> int:
        """Copies that one machine runs."""
        return max(1, self.layout.replicas // self.request.hardware.nodes)

    @property
    def capacity(self) -> int:
        """Tokens of KV cache of all copies."""
        return self.kv_tokens * self.layout.replicas

    def concurrent(self, tokens: int) -> float:
        """Requests of a length that fit at once; a slot without pages holds one of any length."""
        if self.block == 1:
            return float(self.sequences)
        return self.capacity / max(1, tokens)

    @property
    def concurrency(self) -> dict[str, Any]:
        """Requests at once: at full length, and of the planned question with and without its thinking."""
        r = self.request
        return {
            "full_length": round(self.concurrent(r.context), 2),
            "with_thinking": round(self.concurrent(r.request_tokens), 2),
            "without_thinking": round(self.concurrent(r.prompt + r.answer), 2),
            "admitted": self.sequences * self.layout.replicas,
            "users": r.users,
            "all_users_at_full_length": self.concurrent(r.context) >= r.users,
            "all_users_at_planned_length": self.concurrent(min(r.request_tokens, r.context)) >= r.users,
        }
