"""llama.cpp, embedded: its HTTP server as a child process of Deepwell.

`python -m connectors.models.llamacpp --model FILE.gguf --port N` serves llama.cpp's OpenAI-compatible API on loopback
(xllamacpp wheel). Exit codes: 78 (EX_CONFIG) where no restart will help: a missing or damaged file, a model or context
larger than this machine's memory; 75 (EX_TEMPFAIL) where it may: the port is taken, memory is short just now.

Keep imports at the top light: the server process imports this file, and xllamacpp is loaded only there.
"""

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from connectors.gguf import Gguf, read, shard_paths
from pipelines.errors import NotFound, RagError

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from pipelines.profiles import Profile

EX_TEMPFAIL, EX_CONFIG = 75, 78
HOST = "127.0.0.1"
#: tokens a context may have where the file does not say
UNKNOWN_CONTEXT = 131072
#: MiB of finished conversations kept in memory, so that a next turn need not be read again
PROMPT_CACHE_MIB = 512
#: bytes that llama.cpp's compute buffers take beside weights and KV cache, roughly
WORKSPACE = 300 << 20


def chat(
    url: str, model: str, *, api_key: str = "", profile: "Profile", timeout: float = 300.0, context: int = 0
) -> "BaseChatModel":
    """The chat model behind a server that runs; see connectors/llamacpp_chat.py."""
    from connectors import llamacpp_chat

    return llamacpp_chat.chat(url, model, api_key=api_key, profile=profile, timeout=timeout, context=context)


# --- the server process -------------------------------------------------------------------------------------------


def server_command(model_path: Path, port: int, context: int, threads: int, parallel: int, alias: str) -> list[str]:
    """Command of the server process.

    `context` is in tokens for each of `parallel` answers at once (cut to what the model was trained for), `threads`
    0 takes every core, `alias` is the model id that the server goes by. It answers GET /health with 200 when ready.
    """
    options = {"model": model_path, "port": port, "context": context, "threads": threads, "parallel": parallel}
    pairs = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return [sys.executable, "-P", "-m", "connectors.models.llamacpp", *pairs, "--alias", alias]


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM or SIGINT; where that cannot be, write one line saying why and return the exit code."""
    options = _options(arguments)
    try:
        model = read(options.model)
        missing = [path.name for path in shard_paths(options.model, model.shards) if not path.is_file()]
        if missing:
            raise NotFound(f"{options.model} is split into {model.shards} files and these are missing: {missing}")
        context = min(options.context, model.context or UNKNOWN_CONTEXT)
    except RagError as error:
        return _fail(EX_CONFIG, str(error))
    import xllamacpp

    gpus = [d for d in xllamacpp.get_device_info() if "GPU" in str(d["type"])]
    if not gpus and (problem := _too_large(model, context, options.parallel)):
        return _fail(*problem)
    if not _port_is_free(options.host, options.port):
        return _fail(EX_TEMPFAIL, f"port {options.port} of {options.host} is in use by another program")
    return _serve(xllamacpp, _parameters(xllamacpp, options, context, bool(gpus)), model)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m connectors.models.llamacpp", description=server_command.__doc__)
    parser.add_argument("--model", type=Path, required=True, help="GGUF file; of a split model the first one")
    parser.add_argument("--host", default=HOST, help="address to listen on; the server asks nobody for a key")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--alias", default="", help="model id; the file's name if left out")
    return parser.parse_args(arguments)


def _parameters(xllamacpp: Any, options: argparse.Namespace, context: int, gpu: bool) -> Any:
    """llama.cpp's own parameters: loopback, no web page, templates of the model, thinking split from the answer."""
    p = xllamacpp.CommonParams()
    p.model.path = str(options.model)
    p.model_alias = {options.alias or options.model.stem}
    p.hostnames, p.port = [options.host], options.port
    p.n_ctx, p.n_parallel = context * options.parallel, options.parallel
    p.cpuparams.n_threads = p.cpuparams_batch.n_threads = options.threads or _cores()
    p.use_jinja = True
    p.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_DEEPSEEK
    p.endpoint_metrics = p.endpoint_slots = p.endpoint_props = True
    p.cache_ram_mib = PROMPT_CACHE_MIB
    p.fit_params = gpu  # lays a model out over GPU and memory; on a CPU it only loads twice
    p.ui, p.offline = False, True
    p.cors_origins, p.cors_origins_explicit = f"http://{HOST}", True  # no web page may talk to it
    return p


def _serve(xllamacpp: Any, parameters: Any, model: Gguf) -> int:
    """Load and serve until a signal ends the process; returns only when the model cannot be loaded."""
    try:
        server = xllamacpp.Server(parameters)
    except (RuntimeError, MemoryError) as error:
        time.sleep(0.3)  # llama.cpp's own lines come from another thread; ours is to be the last one
        return _fail(
            EX_CONFIG,
            f"llama.cpp cannot load {model.path} (architecture {model.architecture}, {model.quantization}): {error} "
            "Its own reason stands in the lines above; choose another model with `deepwell models use`",
        )

    sys.stderr.write(f"serving {model.path.name} on {server.listening_address}\n")
    sys.stderr.flush()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    while True:
        signal.pause()


def _end(_number: int, _frame: FrameType | None) -> None:
    """End at once: nothing is to be saved, and llama.cpp's own end waits for every answer under way."""
    os._exit(0)


def _too_large(model: Gguf, context: int, parallel: int) -> tuple[int, str] | None:
    """Exit code and words if weights and KV cache do not fit; llama.cpp itself would be killed without a word."""
    weights = sum(path.stat().st_size for path in shard_paths(model.path, model.shards))
    cache = model.kv_bytes * context * parallel
    total, free = _memory()
    needs = (
        f"{model.path.name} needs {weights / 2**30:.1f} GiB for its weights and {cache / 2**30:.1f} GiB for "
        f"{parallel} x {context:,} tokens of context"
    )
    if weights + cache + WORKSPACE > total:
        fits = (total - weights - WORKSPACE) // max(1, model.kv_bytes * parallel)
        advice = (
            f"set DEEPWELL_CHAT__CONTEXT to {fits} or less, or DEEPWELL_CHAT__PARALLEL lower"
            if fits >= 1024
            else "choose a smaller model with `deepwell models use`"
        )
        return EX_CONFIG, f"{needs}, and this machine has {total / 2**30:.1f} GiB of memory: {advice}"
    if cache + WORKSPACE > free:  # weights are mapped from disk and can wait, the cache cannot
        return EX_TEMPFAIL, (
            f"{needs}, and only {free / 2**30:.1f} of {total / 2**30:.1f} GiB of memory are free just now: "
            "end other programs, or set DEEPWELL_CHAT__CONTEXT lower"
        )
    return None


def _memory() -> tuple[int, int]:
    """Bytes of memory this process may have, and bytes free now; a container's limit counts."""
    import psutil

    memory = psutil.virtual_memory()
    total, free = int(memory.total), int(memory.available)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            most, now = Path(limit).read_text().strip(), int(Path(used).read_text())
        except OSError:
            continue
        if most.isdigit() and int(most) < total:
            total, free = int(most), min(free, max(0, int(most) - now))
    return total, free


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _port_is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _fail(code: int, message: str) -> int:
    sys.stderr.write(f"model server: {message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
