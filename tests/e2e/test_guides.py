"""Guides whose commands can be run are run, as they stand, against the whole product."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.conftest import ROOT, Clients

GUIDES = ROOT / "docs" / "guides"


def blocks(guide: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (GUIDES / guide).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_every_command_of_the_guide_to_curl_works_as_it_stands(clients: Clients, tmp_path: Path) -> None:
    (tmp_path / "deepwell-data").symlink_to(clients.running.data_dir)
    setting, stream, plain, three, link = blocks("connect-curl.md", "sh")
    setting = setting.replace("http://127.0.0.1:8100", clients.url)

    def run(block: str, **env: str) -> str:
        script = f"set -eo pipefail\n{setting}\n{block.replace('curl ', 'curl -sS --fail-with-body ')}"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=tmp_path, env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    assert run(stream).endswith("data: [DONE]\n\n")
    message = json.loads(run(plain))["choices"][0]["message"]
    assert "reasoning_content" not in message and "**Sources**" in message["content"]
    found = run(three)
    assert "twenty-five days" in found and '"annotations"' not in found and '"object":"list"' in found
    url = message["annotations"][0]["url_citation"]["url"]
    assert "twenty-five" in json.loads(run(link, URL=url))["quote"]


@pytest.mark.parametrize("guide", sorted(path.name for path in GUIDES.glob("*.md")))
def test_the_code_of_every_guide_is_code(guide: str) -> None:
    for block in blocks(guide, "python"):
        compile(block, guide, "exec")
    for block in blocks(guide, "json"):
        json.loads(block)
