"""R1's chat template in Python, for servers that complete raw text and cannot be asked for the prompt they make.

Source: tokenizer_config.json of deepseek-ai/DeepSeek-R1 and its distills, since February 2025: the system text stands
first without a marker, thinking of earlier turns is dropped, the prompt ends in `<think>` and a line end. The token
that begins a text is left out: servers put it in front by themselves.
"""

from collections.abc import Sequence
from typing import Any

USER, ASSISTANT, END = "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"


def render(messages: Sequence[dict[str, Any]]) -> str:
    """The prompt of messages in OpenAI's form. Raises NotImplementedError for pictures and tool turns."""
    system, turns = [], []
    for message in messages:
        content = message.get("content")
        if not isinstance(content, str) or message["role"] not in {"system", "user", "assistant"}:
            raise NotImplementedError("R1's template, as Deepwell writes it, has text turns only")
        if message["role"] == "system":
            system.append(content)
        elif message["role"] == "user":
            turns.append(USER + content)
        else:
            turns.append(ASSISTANT + content.rpartition("</think>")[2] + END)
    return "\n\n".join(system) + "".join(turns) + f"{ASSISTANT}<think>\n"
