"""Model profiles: matched by every form of name, complete, with sources."""

import re

import pytest

from pipelines.errors import BadRequest
from pipelines.profiles import profile_for, profiles


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("deepseek-ai/DeepSeek-R1", "r1"),
        ("deepseek-r1", "r1"),
        ("deepseek-r1-rag", "r1"),
        ("deepseek-r1:671b", "r1"),
        ("deepseek-reasoner", "r1"),
        ("tiny-r1", "r1"),
        ("deepseek-r1:1.5b", "r1-distill"),
        ("deepseek_r1:7b", "r1-distill"),
        ("deepseek-r1-14b", "r1-distill"),
        ("deepseek-r1:32b-qwen-distill-q4_K_M", "r1-distill"),
        ("deepseek-r1:70b", "r1-distill"),
        ("deepseek-r1:8b-llama-distill-q4_K_M", "r1-distill"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", "r1-distill"),
        ("/models/DeepSeek-R1-Distill-Llama-8B-Q4_K_M.gguf", "r1-distill"),
        ("C:\\models\\DeepSeek-R1-Distill-Llama-70B-Q4_K_M-00001-of-00002.gguf", "r1-distill"),
        ("DeepSeek-R1-Distill-Qwen-7B-AWQ", "r1-distill"),
        ("deepseek-r1:8b", "r1-0528-qwen3-8b"),
        ("deepseek-r1:latest", "r1-0528-qwen3-8b"),
        ("deepseek-r1:8b-0528-qwen3-q4_K_M", "r1-0528-qwen3-8b"),
        ("DeepSeek-R1-0528-Qwen3-8B-UD-Q4_K_XL.gguf", "r1-0528-qwen3-8b"),
        ("deepseek-ai/DeepSeek-R1-0528", "r1-0528"),
        ("DeepSeek-V3-0324", "v3"),
        ("deepseek-chat", "v3"),
        ("unsloth/DeepSeek-V3.1-GGUF", "v3.1"),
        ("deepseek-v3.2", "v3.1"),
        ("deepseek-v4-flash", "v4"),
        ("deepseek-ai/DeepSeek-V4-Pro", "v4"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "stand-in"),
        ("smollm2", "stand-in"),
        ("qwen2.5:7b", "plain"),
        ("gpt-4o", "plain"),
        ("", "plain"),
    ],
)
def test_matched_by_name(model: str, name: str) -> None:
    assert profile_for(model).name == name


def test_set_by_hand() -> None:
    assert profile_for("my-model", "r1-distill").name == "r1-distill"
    with pytest.raises(BadRequest, match="r1-distill, r1, stand-in, plain"):
        profile_for("my-model", "r2")


def test_r1_family_is_sampled_and_addressed_as_its_makers_say() -> None:
    for name in ("r1", "r1-distill"):
        profile = profiles()[name]
        assert (profile.temperature, profile.top_p, profile.system) == (0.6, 0.95, "none")
        assert profile.guards_sampling
        assert profile.starts_in_thinking
        assert profile.forces_think
    assert profiles()["r1-0528"].system == "own"
    assert not profiles()["r1-0528"].starts_in_thinking


def test_every_profile_is_whole() -> None:
    for profile in profiles().values():
        assert profile.title
        assert profile.sources
        assert profile.licence
        for pattern in profile.match:
            re.compile(pattern)
        for rule in profile.engines.values():
            assert rule.field in {"reasoning", "reasoning_content", "thinking"}
        if profile.thinks == "switch":
            assert all(rule.thinking_on and rule.thinking_off for rule in profile.engines.values())


def test_only_the_stand_in_is_one() -> None:
    assert [profile.name for profile in profiles().values() if profile.stand_in] == ["stand-in"]
