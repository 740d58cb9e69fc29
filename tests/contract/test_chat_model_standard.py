"""LangChain's own standard tests on our chat model."""

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests

from connectors.chat_model import ServedChat
from connectors.models import openai
from pipelines.profiles import profile_for


class TestServedChat(ChatModelUnitTests):
    """Initialisation, parameters, tools, serialisation."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ServedChat

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": "deepseek-r1:7b",
            "url": "http://127.0.0.1:1/v1",
            "engine": openai.ENGINE,
            "family": profile_for("deepseek-r1:7b"),
        }
