"""GPUs as data, and how a user describes them: "8xV100-32GB", "2x4090", or "4x48GiB@8.6" for one the table lacks."""

import re
import tomllib
from functools import cache
from importlib.resources import files

from pipelines.errors import BadRequest
from pipelines.planner.architecture import Row

GIB = 1 << 30
MIB = 1 << 20


class Gpu(Row):
    """One kind of GPU; see gpus.toml for units. bandwidth and tflops are 0 where they are not known."""

    name: str
    names: tuple[str, ...] = ()
    memory: int
    capability: float
    bandwidth: float = 0
    tflops: float = 0
    nvlink: bool = False

    @property
    def bytes(self) -> int:
        """Memory a program sees."""
        return self.memory * MIB


class Hardware(Row):
    """What a plan is made for: `count` GPUs of one kind over `nodes` machines, or none. ram is bytes, 0 if unknown."""

    gpu: Gpu | None = None
    count: int = 0
    nodes: int = 1
    ram: int = 0

    @property
    def per_node(self) -> int:
        """GPUs of one machine."""
        return self.count // self.nodes

    def __str__(self) -> str:
        if self.gpu is None:
            return "no GPU" + (f", {self.ram / GIB:.0f} GiB of memory" if self.ram else "")
        nodes = f" in {self.nodes} nodes" if self.nodes > 1 else ""
        return f"{self.count}x {self.gpu.name}{nodes}"


@cache
def gpus() -> tuple[Gpu, ...]:
    """Every GPU of gpus.toml."""
    rows = tomllib.loads(files("pipelines.planner").joinpath("gpus.toml").read_text("utf-8"))["gpu"]
    return tuple(Gpu.model_validate(row) for row in rows)


def described(text: str, nodes: int = 1, ram: int = 0) -> Hardware:
    """Hardware from a user's words; "none" is a machine without GPU. Raises BadRequest with what can be said."""
    if text.strip().lower() in ("none", "cpu", "0"):
        return Hardware(nodes=nodes, ram=ram)
    match = re.fullmatch(r"\s*(?:(\d+)\s*[x*×]\s*)?(\S.*?)\s*", text)
    count = int(match[1] or 1) if match else 0
    if match is None or count < 1:
        raise BadRequest(f"--gpus {text!r} says no number of GPUs; write for example 8xV100-32GB, 1xH100 or none")
    if nodes < 1 or count % nodes:
        fitting = [n for n in range(1, count + 1) if count % n == 0]
        raise BadRequest(
            f"{count} GPUs do not divide evenly over {nodes} nodes: --nodes {' or '.join(map(str, fitting[:4]))}, "
            f"or {nodes * max(1, round(count / max(nodes, 1)))} GPUs in all"
        )
    return Hardware(gpu=gpu(match[2]), count=count, nodes=nodes, ram=ram)


def gpu(name: str) -> Gpu:
    """A GPU by name, or from memory and compute capability. Raises BadRequest that lists the names."""
    wanted = _plain(name)
    for row in gpus():
        if wanted in {_plain(known) for known in (row.name, *row.names)}:
            return row
    if custom := re.fullmatch(r"(\d+(?:\.\d+)?)\s*gi?b?@(\d+\.\d)", name.strip().lower()):
        return Gpu(name=name.strip(), memory=round(float(custom[1]) * 1024), capability=float(custom[2]))
    raise BadRequest(
        f"no GPU {name!r} is known. Known: {', '.join(row.name for row in gpus())}. "
        "Any other: memory and compute capability, for example 2x48GiB@8.6"
    )


def recognised(name: str, memory: int, capability: float) -> Gpu:
    """The GPU of nvidia-smi's name, with the memory that this one really has (MiB)."""
    plain = _plain(name.replace("NVIDIA", "").replace("GeForce", "").replace("Tesla", ""))
    best = [row for row in gpus() if _names(row, plain) and abs(row.memory - memory) < 0.1 * memory]
    if not best:
        return Gpu(name=name, memory=memory, capability=capability)
    return best[0].model_copy(update={"name": name, "memory": memory, "capability": capability})


def _names(row: Gpu, plain: str) -> bool:
    stems = {_plain(known.split("-")[0] if not known.startswith("RTX") else known) for known in (row.name, *row.names)}
    return any(stem in plain for stem in stems)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9.@]", "", name.lower())
