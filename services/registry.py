"""The models that `deepwell models pull` knows: connectors/hubs/models.toml, read."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipelines.errors import BadRequest

DEFAULT_QUANTIZATION = "Q4_K_M"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Quantization(_Record):
    """One quantisation of a model: its files in the repository, the first one first."""

    files: tuple[str, ...]
    #: bytes of all files; an estimate unless `exact`
    bytes: int
    exact: bool = False


class RegisteredModel(_Record):
    """A model that can be pulled by name."""

    id: str
    name: str
    #: repository of the original weights
    base: str
    derived_from: str
    architecture: str
    parameters: int
    context: int
    licence: str
    #: entry of pipelines/profiles.toml
    profile: str
    huggingface: str
    modelscope: str
    quantizations: Mapping[str, Quantization]

    def tag(self, quantization: str) -> str:
        """Name of one quantisation on the shelf: the id alone for the default one."""
        return self.id if quantization == DEFAULT_QUANTIZATION else f"{self.id}-{quantization.lower()}"


@cache
def registered() -> tuple[RegisteredModel, ...]:
    """Every model of the registry, in its order."""
    table: dict[str, Any] = tomllib.loads(files("connectors.hubs").joinpath("models.toml").read_text("utf-8"))
    return tuple(RegisteredModel.model_validate(entry) for entry in table["model"])


def find(name: str) -> tuple[RegisteredModel, str]:
    """Model and quantisation of a name such as "deepseek-r1:7b" or "deepseek-r1:7b-q8_0".

    Raises BadRequest that lists the names there are.
    """
    names: dict[str, tuple[RegisteredModel, str]] = {
        model.tag(quantization): (model, quantization) for model in registered() for quantization in model.quantizations
    }
    aliases = {f"{model.id}-{DEFAULT_QUANTIZATION.lower()}": (model, DEFAULT_QUANTIZATION) for model in registered()}
    try:
        return (names | aliases)[name.lower()]
    except KeyError:
        raise BadRequest(
            f"no model {name!r} is known. Known: {', '.join(names)}. "
            "A GGUF file you have is taken with `deepwell models import FILE`"
        ) from None
