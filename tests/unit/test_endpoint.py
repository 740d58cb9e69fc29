"""What `deepwell endpoint show` tells people to type."""

import pytest

from pipelines.errors import BadRequest
from services import delivery
from services.endpoint import FORMS, describe, network_addresses

MODELS = ["deepseek-r1", "deepseek-r1-handbook"]


def shown(client: str = "", host: str = "127.0.0.1", url: str = "http://127.0.0.1:8100") -> dict[str, object]:
    return describe(url, "dw-k", MODELS, host, client)


def test_a_client_in_a_container_gets_an_address_that_is_not_the_container_itself() -> None:
    for client, form in FORMS.items():
        text = " ".join(dict(shown(client)["fields"]).values())  # type: ignore[call-overload]
        assert ("host.docker.internal:8100" in text) is form.container, client
        assert ("127.0.0.1:8100" in text) is not form.container, client
        assert "dw-k" in text and "deepseek-r1-handbook" in text and "{" not in text, client


@pytest.mark.parametrize(
    ("client", "field", "value"),
    [
        ("dify", "API endpoint URL", "http://host.docker.internal:8100/v1"),
        ("dify", "External knowledge API endpoint", "http://host.docker.internal:8100/dify"),
        ("chatbox", "API Host", "http://127.0.0.1:8100"),
        ("openwebui", "URL", "http://host.docker.internal:8100/v1"),
        ("n8n", "Base URL", "http://host.docker.internal:8100/v1"),
        ("nextchat", "OpenAI Endpoint", "http://127.0.0.1:8100"),
        ("python", "base_url", "http://127.0.0.1:8100/v1"),
    ],
)
def test_the_base_url_has_the_form_that_the_client_joins(client: str, field: str, value: str) -> None:
    assert dict(shown(client)["fields"])[field] == value  # type: ignore[call-overload]


def test_loopback_is_said_with_the_way_to_change_it() -> None:
    closed, opened = shown("dify"), shown("dify", host="0.0.0.0")
    assert closed["reachable_from_containers"] is False and "DEEPWELL_SERVER__HOST=0.0.0.0" in str(closed["notes"])
    assert opened["reachable_from_containers"] is True and "loopback" not in str(opened["notes"])
    assert "loopback" not in str(shown("chatbox")["notes"]), "a program of this machine does not care"
    assert shown()["addresses"]["network"] == []  # type: ignore[index]


def test_an_address_in_the_network_is_the_one_that_is_listened_on() -> None:
    assert network_addresses("192.168.1.20") == ["192.168.1.20"]
    assert all(not address.startswith("127.") for address in network_addresses("0.0.0.0"))
    found = shown("dify", host="192.168.1.20", url="http://192.168.1.20:8100")
    assert found["base_url"] == "http://192.168.1.20:8100/v1"


def test_every_kind_of_client_of_a_key_has_a_form() -> None:
    assert set(delivery.CLIENTS) <= set(FORMS)
    with pytest.raises(BadRequest, match="netscape"):
        shown("netscape")


def test_without_a_knowledge_base_the_plain_model_is_named() -> None:
    found = describe("http://127.0.0.1:1", "k", MODELS[:1], "127.0.0.1", "python")
    assert found["fields"]["model"] == "deepseek-r1"


def test_nobody_is_told_to_paste_an_id_that_skips_thinking() -> None:
    for models in (["m", "m:nothink"], ["m", "m-handbook", "m:nothink", "m-handbook:nothink"]):
        found = describe("http://127.0.0.1:8100", "dw-k", models, "127.0.0.1", "curl")
        assert found["fields"]["model"] == models[len(models) // 2 - 1] and found["models"] == models
