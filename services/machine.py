"""What this machine has: GPUs as nvidia-smi names them, memory as /proc says."""

import re
import shutil
import subprocess
from pathlib import Path

from pipelines.errors import BadRequest
from pipelines.planner.hardware import GIB, Gpu, Hardware, recognised

FIELDS = ("name", "memory.total", "memory.reserved", "compute_cap")


def this_machine() -> Hardware:
    """Hardware of this machine. Raises BadRequest where its GPUs differ, for a copy takes equal ones."""
    found = gpus(_nvidia_smi(f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"))
    if len({(gpu.name, gpu.memory) for gpu in found}) > 1:
        names = ", ".join(gpu.name for gpu in found)
        raise BadRequest(f"the GPUs of this machine differ ({names}): say with --gpus which of them to plan for")
    card = found[0] if found else None
    if card is not None and len(found) > 1:
        card = card.model_copy(update={"nvlink": joined(_nvidia_smi("topo", "-m"))})
    return Hardware(gpu=card, count=len(found), ram=memory())


def memory(path: Path = Path("/proc/meminfo"), group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes of memory that programs can still have, in a container no more than its limit; 0 where nothing says."""
    try:
        lines = path.read_text("ascii").splitlines()
    except OSError:
        return 0
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
    try:
        limit, used = (int((group / name).read_text("ascii")) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):
        return free  # no limit: the file is not there, or says "max"
    return max(0, min(free, limit - used))


def gpus(table: str) -> list[Gpu]:
    """GPUs of nvidia-smi's table (csv, noheader, nounits); what the driver keeps is not a program's to use."""
    found = []
    for line in filter(str.strip, table.splitlines()):
        name, total, reserved, capability = (cell.strip() for cell in line.split(","))
        kept = float(reserved) if reserved.replace(".", "", 1).isdigit() else 0.0
        found.append(recognised(name, round(float(total) - kept), float(capability)))
    return found


def joined(topology: str) -> bool:
    """Whether NVLink joins every two GPUs in the table of `nvidia-smi topo -m`: NV and the number of links."""
    rows = [line.split() for line in re.sub(r"\x1b\[\d*m", "", topology).splitlines() if line.startswith("GPU")]
    pairs = [cell for row in rows for cell in row[1 : len(rows) + 1] if cell != "X"]
    return bool(pairs) and all(re.fullmatch(r"NV\d+", cell) for cell in pairs)


def _nvidia_smi(*arguments: str) -> str:
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    done = subprocess.run([command, *arguments], capture_output=True, text=True, timeout=20, check=False)
    if done.returncode:
        raise BadRequest(
            f"nvidia-smi is there and fails ({done.stderr.strip() or done.stdout.strip()}): mend the driver, or "
            "describe the GPUs with --gpus"
        )
    return done.stdout


def amount(text: str) -> int:
    """Bytes of "64GiB", "64GB" or "64". Raises BadRequest."""
    plain = text.strip().lower().removesuffix("ib").removesuffix("b").removesuffix("g").strip()
    try:
        return int(float(plain) * GIB)
    except ValueError:
        raise BadRequest(f"--ram {text!r} is not an amount of memory; write for example 64GiB") from None
