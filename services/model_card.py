"""Everything Deepwell knows about a model by its name: profile, engines, registry, shelf."""

from pathlib import Path
from typing import Any

from pipelines.errors import BadRequest, NotFound
from pipelines.profiles import EngineRule, Profile, profile_for
from services.models import load_model
from services.registry import find

_THINKS = {"always": "always", "switch": "by request", "never": "never"}
_SYSTEM = {
    "none": "none: instructions go into the user's turn",
    "own": "the family's own text",
    "allowed": "as the client sends it",
}
_TOOLS = {
    "none": "none: left out, and named in X-Ignored-Params",
    "without_thinking": "yes, while it does not think",
    "yes": "yes",
}
_HISTORY = {
    "answers_only": "answers only, no thinking of earlier turns",
    "tool_turns_keep_reasoning": "answers only; turns that call tools keep their thinking",
}


def model_card(data_dir: Path, name: str, profile_name: str = "") -> dict[str, Any]:
    """{"name", "title", "profile", "licence", "handling", "engines", "registry", "here", "sources"}.

    `handling` has rows (what, value, why), `engines` rows (engine, versions, flags, field, switch, limit). Raises
    BadRequest for an unknown profile.
    """
    profile = profile_for(name, profile_name)
    return {
        "name": name,
        "title": profile.title,
        "profile": profile.name,
        "licence": profile.licence,
        "handling": _handling(profile),
        "engines": [row for engine, rule in profile.engines.items() for row in _engine_rows(engine, rule)],
        "registry": _registered(name),
        "here": _here(data_dir, name),
        "sources": list(profile.sources),
    }


def _handling(profile: Profile) -> list[list[str]]:
    default = "" if profile.thinks != "switch" else f"; by itself {'on' if profile.thinks_by_default else 'off'}"
    sampling = "the engine's or the client's" if profile.temperature is None else f"{profile.temperature:g}"
    top_p = f", top-p {profile.top_p:g}" if profile.top_p is not None else ""
    return [
        ["thinks", _THINKS[profile.thinks] + default, "`:nothink` behind a model's id skips it"],
        ["sampling", f"temperature {sampling}{top_p}", _why_sampling(profile)],
        ["system prompt", _SYSTEM[profile.system], profile.system_text.replace("\n", " / ")],
        ["forced <think>", "yes" if profile.forces_think else "no", "else the model may skip its thinking"],
        ["output begins", "inside the thinking" if profile.starts_in_thinking else "with its own tag, if any", ""],
        ["history", _HISTORY[profile.history], "old thinking fills the window and is imitated"],
        ["tools", _TOOLS[profile.tools], "`DEEPWELL_CHAT__TOOLS` says otherwise"],
        ["window", f"{profile.context:,} tokens", "the engine's real one is asked for"],
        ["longest answer", f"{profile.answer_tokens:,} tokens" if profile.answer_tokens else "unknown", ""],
        ["stop", ", ".join(profile.stop) or "the model's own", "stops of clients are looked for in the answer alone"],
        ["licence", profile.licence, ""],
    ]


def _why_sampling(profile: Profile) -> str:
    if not profile.guards_sampling:
        return "a client's own count"
    return "below 0.5 it repeats itself, above 0.7 it rambles; `free_sampling` lets a client's count"


def _engine_rows(engine: str, rule: EngineRule) -> list[list[str]]:
    switch = " / ".join(str(fields) for fields in (rule.thinking_on, rule.thinking_off) if fields) or "none"
    rest = [rule.field, switch, rule.budget or "kept by Deepwell"]
    if not rule.flags:
        return [[engine, "all", "", *rest]]
    return [[engine, row.versions, " ".join(row.flags), *rest] for row in rule.flags]


def _registered(name: str) -> dict[str, Any]:
    try:
        model, quantization = find(name)
    except BadRequest:
        return {}
    files = model.quantizations[quantization]
    return {
        "id": model.id,
        "base": model.base,
        "derived from": model.derived_from,
        "parameters": model.parameters,
        "context": model.context,
        "licence": model.licence,
        "quantisation": quantization,
        "size": f"{files.bytes / 1e9:.1f} GB" + ("" if files.exact else " (about)"),
        "huggingface": model.huggingface,
        "modelscope": model.modelscope,
    }


def _here(data_dir: Path, name: str) -> dict[str, Any]:
    try:
        model = load_model(data_dir, name.lower())
    except (NotFound, BadRequest):
        return {}
    return {"id": model.id, "source": model.source, "size": f"{model.size / 1e9:.1f} GB", "verified": model.verified}
