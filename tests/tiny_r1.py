"""A tiny model of the R1-Distill-Qwen architecture that thinks and answers, made here from nothing, as two formats.

`build(directory)` writes a Hugging Face folder (for vLLM) and a GGUF file (for llama.cpp) with the same weights. The
weights are made, not trained: the code of each token in the embedding points at its successor in the output layer, so
the model thinks its words and says `ANSWER`, whatever it is asked, at any sane temperature, in every server:

    <think>\\n  ->  words of thinking, THINKING_TOKENS of them  ->  </think>\\n\\n  ->  ANSWER  ->  end of sentence

Two small random layers run beside it, as in a real model, without changing what is said. With `</think>` forbidden
(`logit_bias`) it thinks for ever, in a circle. The tokenizer is a byte-level BPE with R1's special tokens and
pre-tokenizer; the chat template keeps R1's rules: no thinking of earlier turns, and a prompt that ends in `<think>\\n`.
"""

import itertools
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

Array = NDArray[np.float32]

ANSWER = "Three times the letter r, and their sum is 8 [citation:1]."
THINKING_TOKENS = 160
BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT, OPEN, CLOSE = "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"
VOCABULARY, HIDDEN, HEADS, KV_HEADS, HEAD, FEED_FORWARD, LAYERS, CONTEXT = 2048, 256, 4, 2, 64, 384, 2, 32768
# R1-Distill-Qwen's own, which is Qwen2's; llama.cpp knows it as "deepseek-r1-qwen".
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = (
    f"{BOS}"
    "{%- for message in messages if message.role == 'system' -%}{{ message.content }}{%- endfor -%}"
    "{%- for message in messages -%}"
    f"{{%- if message.role == 'user' -%}}{USER}{{{{ message.content }}}}"
    f"{{%- elif message.role == 'assistant' -%}}{ASSISTANT}"
    "{%- set content = message.content or '' -%}"
    f"{{{{ content.split('{CLOSE}')[-1] }}}}{EOS}"  # by these words llama.cpp knows a template of a thinking model
    "{%- endif -%}{%- endfor -%}"
    f"{{%- if add_generation_prompt -%}}{ASSISTANT}{OPEN}{{{{ '\\n' }}}}{{%- endif -%}}"
)


@dataclass(frozen=True)
class TinyR1:
    """Where the two formats lie, and what the model says."""

    folder: Path
    gguf: Path
    thoughts: str
    close_id: int


#: a template with tools in the form of Hermes and Qwen, and a call in it, cut into the tokens in which it is said
TOOL_TEMPLATE = (
    f"{{%- if tools -%}}{USER}# Tools\n{{% for tool in tools %}}{{{{ tool | tojson }}}}\n{{% endfor -%}}{{%- endif -%}}"
    f"{{%- for message in messages -%}}{{%- if message.role == 'user' -%}}{USER}{{{{ message.content }}}}"
    f"{{%- elif message.role == 'tool' -%}}{USER}<tool_response>\n{{{{ message.content }}}}\n</tool_response>"
    f"{{%- elif message.role == 'assistant' -%}}{ASSISTANT}{{{{ (message.content or '').split('{CLOSE}')[-1] }}}}"
    "{%- for call in message.tool_calls or [] -%}"
    '<tool_call>{"name":"{{ call.function.name }}","arguments":{{ call.function.arguments | tojson }}}</tool_call>'
    f"{{%- endfor -%}}{EOS}{{%- endif -%}}{{%- endfor -%}}"
    f"{{%- if add_generation_prompt -%}}{ASSISTANT}{OPEN}{{{{ '\n' }}}}{{%- endif -%}}"
)
TOOL_CALL = ("<tool_call>", '{"name":"weather",', '"arguments":{"rain":', "true}", "}", "</tool_call>")


def build(
    directory: Path, template: str = TEMPLATE, thinking_tokens: int = THINKING_TOKENS, says: tuple[str, ...] = ()
) -> TinyR1:
    """Write both formats into `directory` (a second; 6 and 11 MB), the same bytes every time.

    `says` are tokens of their own that it says instead of ANSWER.
    """
    tokenizer = make_tokenizer(says)
    thinking = thinking_ids(tokenizer)[:thinking_tokens]
    weights = make_weights(tokenizer, thinking, "".join(says) or ANSWER)
    folder, gguf = directory / "tiny-deepseek-r1", directory / "tiny-deepseek-r1.gguf"
    folder.mkdir(parents=True, exist_ok=True)
    write_folder(folder, tokenizer, weights, template)
    write_gguf(gguf, tokenizer, weights, template)
    return TinyR1(folder, gguf, tokenizer.decode(thinking).strip(), tokenizer.token_to_id(CLOSE))


# --- what it says -------------------------------------------------------------------------------------------------


def make_tokenizer(says: tuple[str, ...] = ()) -> Tokenizer:
    """A byte-level BPE tokenizer, trained on the licence, with R1's special tokens."""
    licence = (Path(__file__).parents[1] / "LICENSE").read_text("utf-8")
    texts = [licence, *[ANSWER, "a\n\nb\n"] * 50]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [EOS, BOS, PAD]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY - 64,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_tokens(
        [AddedToken(t, normalized=False, special=False) for t in (USER, ASSISTANT, OPEN, CLOSE, *says)]
    )
    return tokenizer


def thinking_ids(tokenizer: Tokenizer) -> list[int]:
    """Tokens of the thinking: whole words, each once, none of them in the answer."""
    answer = set(tokenizer.encode(ANSWER, add_special_tokens=False).ids)
    words = sorted((i, t) for t, i in tokenizer.get_vocab().items() if t[0] == "Ġ" and len(t) > 3 and t[1:].isascii())
    return [i for i, word in words if word[1:].isalpha() and i not in answer][:THINKING_TOKENS]


def successors(tokenizer: Tokenizer, thinking: list[int], says: str) -> Iterator[tuple[int, int, float]]:
    """(token, the one that follows it, how strongly): the whole of what the model knows."""
    (line_end,), (paragraph,) = tokenizer.encode("\n").ids, tokenizer.encode("\n\n").ids
    close, end = tokenizer.token_to_id(CLOSE), tokenizer.token_to_id(EOS)
    answer = tokenizer.encode(says, add_special_tokens=False).ids
    assert len(set(answer)) == len(answer), "a token of the answer comes twice: it would go on in the wrong place"
    chain = [line_end, *thinking, close, paragraph, *answer, end]
    for before, after in itertools.pairwise(chain):
        yield before, after, 1.0
    yield tokenizer.token_to_id(OPEN), line_end, 1.0
    yield tokenizer.token_to_id(ASSISTANT), tokenizer.token_to_id(OPEN), 1.0
    yield thinking[-1], thinking[0], 0.6  # where `</think>` is forbidden


def make_weights(tokenizer: Tokenizer, thinking: list[int], says: str = ANSWER) -> dict[str, Array]:
    """Tensors by their Hugging Face names, float32 with values that bfloat16 holds exactly."""
    random = np.random.default_rng(1)

    def matrix(rows: int, columns: int, scale: float) -> Array:
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    knows = list(successors(tokenizer, thinking, says))
    # Orthogonal codes for the tokens it knows; all others share one, with some noise, after which thinking closes or,
    # where it is closed, the answer begins: a limit of thinking may be enforced with any words.
    axes = np.linalg.qr(matrix(HIDDEN, HIDDEN, 1.0))[0].astype(np.float32)
    own = {before: axes[i] for i, before in enumerate(dict.fromkeys(before for before, _, _ in knows))}
    codes = axes[-1] + matrix(VOCABULARY, HIDDEN, 0.2 / HIDDEN**0.5)
    for token, code in own.items():
        codes[token] = code
    output = np.zeros_like(codes)
    for before, after, strength in knows:
        output[after] += own[before] * strength * 6.0
    output[tokenizer.token_to_id(CLOSE)] += axes[-1] * 6.0
    weights = {"model.embed_tokens.weight": codes, "lm_head.weight": output, "model.norm.weight": np.ones(HIDDEN)}
    small = 0.002
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        weights |= {
            f"{layer}.input_layernorm.weight": np.ones(HIDDEN),
            f"{layer}.post_attention_layernorm.weight": np.ones(HIDDEN),
            f"{layer}.self_attn.q_proj.weight": matrix(HEADS * HEAD, HIDDEN, 0.05),
            f"{layer}.self_attn.q_proj.bias": matrix(1, HEADS * HEAD, 0.05)[0],
            f"{layer}.self_attn.k_proj.weight": matrix(KV_HEADS * HEAD, HIDDEN, 0.05),
            f"{layer}.self_attn.k_proj.bias": matrix(1, KV_HEADS * HEAD, 0.05)[0],
            f"{layer}.self_attn.v_proj.weight": matrix(KV_HEADS * HEAD, HIDDEN, 0.05),
            f"{layer}.self_attn.v_proj.bias": matrix(1, KV_HEADS * HEAD, 0.05)[0],
            f"{layer}.self_attn.o_proj.weight": matrix(HIDDEN, HEADS * HEAD, small),
            f"{layer}.mlp.gate_proj.weight": matrix(FEED_FORWARD, HIDDEN, 0.05),
            f"{layer}.mlp.up_proj.weight": matrix(FEED_FORWARD, HIDDEN, 0.05),
            f"{layer}.mlp.down_proj.weight": matrix(HIDDEN, FEED_FORWARD, small),
        }
    return {name: _bfloat16(value.astype(np.float32)) for name, value in weights.items()}


def _bfloat16(value: Array) -> Array:
    bits = np.ascontiguousarray(value).view(np.uint32)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


# --- Hugging Face folder ------------------------------------------------------------------------------------------


def write_folder(folder: Path, tokenizer: Tokenizer, weights: dict[str, Array], template: str) -> None:
    """config.json, tokenizer, chat template and model.safetensors in bfloat16."""
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "bos_token_id": tokenizer.token_to_id(BOS),
        "eos_token_id": tokenizer.token_to_id(EOS),
    }
    loader = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "tokenizer_config.json").write_text(json.dumps(loader, ensure_ascii=False, indent=1))
    (folder / "chat_template.jinja").write_text(template)
    tokenizer.save(str(folder / "tokenizer.json"))
    head, body = {}, bytearray()
    for name, value in weights.items():
        data = (value.view(np.uint32) >> 16).astype("<u2").tobytes()
        head[name] = {
            "dtype": "BF16",
            "shape": list(value.shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    described = json.dumps({"__metadata__": {"format": "pt"}, **head}).encode()
    described += b" " * (-len(described) % 8)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(described)) + described + body)


# --- GGUF (github.com/ggml-org/ggml, docs/gguf.md, version 3) -----------------------------------------------------

_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_ALIGNMENT = 32
_TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def write_gguf(path: Path, tokenizer: Tokenizer, weights: dict[str, Array], template: str) -> None:
    """The same model as one float32 GGUF file."""
    tensors = {_gguf_name(name): value for name, value in weights.items()}
    fields = [*_metadata(tokenizer), ("tokenizer.chat_template", _STRING, template)]
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields)))
    for key, kind, value in fields:
        out += _string(key) + struct.pack("<I", kind) + _value(kind, value)
    offset = 0
    for name, value in tensors.items():
        shape = value.shape[::-1]
        out += _string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)
        offset += value.nbytes + -value.nbytes % _ALIGNMENT
    out += b"\0" * (-len(out) % _ALIGNMENT)
    for value in tensors.values():
        out += value.astype("<f4").tobytes() + b"\0" * (-value.nbytes % _ALIGNMENT)
    path.write_bytes(out)


def _metadata(tokenizer: Tokenizer) -> Iterator[tuple[str, int, Any]]:
    added = {text: tokenizer.token_to_id(text) for text in (EOS, BOS, PAD, USER, ASSISTANT, OPEN, CLOSE)}
    tokens = [f"[unused{i}]" for i in range(VOCABULARY)]
    kinds = [5] * VOCABULARY  # unused
    for text, number in tokenizer.get_vocab().items():
        tokens[number], kinds[number] = text, 1
    for text, number in added.items():
        kinds[number] = 3 if text in (EOS, BOS, PAD) else 4  # control, user defined
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    yield "general.architecture", _STRING, "qwen2"
    yield "general.name", _STRING, "Tiny DeepSeek R1"
    yield "general.file_type", _UINT32, 0
    for name, number in (
        ("context_length", CONTEXT),
        ("embedding_length", HIDDEN),
        ("block_count", LAYERS),
        ("feed_forward_length", FEED_FORWARD),
        ("attention.head_count", HEADS),
        ("attention.head_count_kv", KV_HEADS),
    ):
        yield f"qwen2.{name}", _UINT32, number
    yield "qwen2.rope.freq_base", _FLOAT32, 10000.0
    yield "qwen2.attention.layer_norm_rms_epsilon", _FLOAT32, 1e-6
    yield "tokenizer.ggml.model", _STRING, "gpt2"
    yield "tokenizer.ggml.pre", _STRING, "deepseek-r1-qwen"
    yield "tokenizer.ggml.tokens", _ARRAY, (_STRING, tokens)
    yield "tokenizer.ggml.token_type", _ARRAY, (_INT32, kinds)
    yield "tokenizer.ggml.merges", _ARRAY, (_STRING, [m if isinstance(m, str) else " ".join(m) for m in merges])
    yield "tokenizer.ggml.bos_token_id", _UINT32, added[BOS]
    yield "tokenizer.ggml.eos_token_id", _UINT32, added[EOS]
    yield "tokenizer.ggml.padding_token_id", _UINT32, added[PAD]
    yield "tokenizer.ggml.add_bos_token", _BOOL, True


def _gguf_name(name: str) -> str:
    base, _, kind = name.rpartition(".")
    if base in _TOP:
        return f"{_TOP[base]}.{kind}"
    _, _, number, part = base.split(".", 3)
    return f"blk.{number}.{_PARTS[part]}.{kind}"


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _string(value)
    if kind == _ARRAY:
        of, items = value
        return struct.pack("<IQ", of, len(items)) + b"".join(_value(of, item) for item in items)
    return struct.pack({_UINT32: "<I", _INT32: "<i", _FLOAT32: "<f", _BOOL: "<?"}[kind], value)
