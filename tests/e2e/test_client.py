"""`deepwell client` against a model server over HTTP: in the terminal, for programs, and its page."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import BIN, cli
from tests.e2e.upstream import MODEL, Upstream

ANSWER = "Twenty-five days [citation:1]."
THOUGHT = "Let me look. The passage says so."


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    server = Upstream()
    server.start()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{server.url}/models")
            break
        except httpx.TransportError:
            time.sleep(0.05)
    yield server
    server.stop()


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`deepwell …` in this process: exit code, standard output, standard error."""
    from services.cli import main

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["deepwell", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return command


def test_one_answer_for_a_program(upstream: Upstream, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret-token\n")
    done = cli("client", "How many days?", "--url", upstream.url, "--token-file", str(tmp_path / "token"), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["answer"], found["reasoning"].strip()) == (ANSWER, THOUGHT)
    assert found["model"] == MODEL and found["usage"]["prompt"] == 40 and found["finish_reason"] == "stop"
    assert upstream.headers[-1]["authorization"] == "Bearer secret-token"
    body = upstream.bodies[-1]
    assert (body["temperature"], body["top_p"]) == (0.6, 0.95), "R1's own sampling"
    assert [turn["role"] for turn in body["messages"]] == ["user"], "no system turn for R1"
    assert body["max_tokens"] == 4096, "half of the window of 8192"
    assert "warning" not in done.stderr


def test_the_flags_of_the_articles_script(upstream: Upstream, run: Run) -> None:
    endpoint = upstream.url.removesuffix("/v1")
    code, out, err = run("client", "How many days?", "--eas_endpoint", endpoint, "--eas_token", "abc", "--json")
    assert code == 0, err
    assert json.loads(out)["answer"] == ANSWER
    assert "ps" in err and "DEEPWELL_CLIENT__TOKEN" in err and "abc" not in err


def test_the_token_comes_from_the_environment(upstream: Upstream, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPWELL_CLIENT__URL", upstream.url)
    monkeypatch.setenv("DEEPWELL_CLIENT__TOKEN", "from-env")
    code, out, err = run("client", "Hi?")
    assert code == 0 and ANSWER in out and THOUGHT in out, err
    assert upstream.headers[-1]["authorization"] == "Bearer from-env"


def test_a_conversation_sends_no_thinking_back(upstream: Upstream) -> None:
    before = len(upstream.bodies)
    code = """
import builtins, sys
from services.cli import chat
lines = iter(["How many days?", "And where?", "/model nothing", "/new", "Again?"])
def read(_):
    try: return next(lines)
    except StopIteration: raise EOFError
builtins.input = read
import asyncio
from services.talk import connect
chat._converse(asyncio.run(connect(sys.argv[1], "")), True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, upstream.url], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, second, third = upstream.bodies[before:]
    assert [turn["role"] for turn in second["messages"]] == ["user", "assistant", "user"]
    assert second["messages"][1]["content"] == ANSWER
    assert len(first["messages"]) == len(third["messages"]) == 1
    assert done.stdout.count(ANSWER) == 3 and THOUGHT in done.stdout
    assert f"has no model 'nothing'; it has: {MODEL}" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (["--url", "{url}", "--token-file", "{wrong}"], r"refused the key.*DEEPWELL_CLIENT__TOKEN", 4),
        (["--url", "{root}/nowhere"], "--eas_endpoint", 4),
        (["--url", "{url}", "--model", "gpt-9"], f"has no model 'gpt-9'; it has: {MODEL}", 2),
        (["--url", "http://127.0.0.1:9/v1"], "no model server answers.*--url", 4),
        (["--url", "ftp://x"], "begins with http", 2),
        (["--url", "{url}", "--token-file", "/nowhere/token"], "cannot be read", 2),
        (["--url", "{url}", "--eas_endpoint", "{url}"], "two servers", 2),
        (["--url", "{url}", "--share"], "--share would publish", 2),
        (["--url", "{url}", "--web", "--server-name", "0.0.0.0"], "for this machine", 2),
    ],
)
def test_what_is_wrong_is_said(
    upstream: Upstream, tmp_path: Path, run: Run, arguments: list[str], said: str, code: int
) -> None:  # fmt: skip
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    filled = [a.format(url=upstream.url, root=upstream.url.removesuffix("/v1"), wrong=wrong) for a in arguments]
    found, _, told = run("client", "Hi?", *filled)
    assert found == code, told
    assert re.search(said, told, re.DOTALL), told


class Page:
    """`deepwell client --web` in a process of its own."""

    def __init__(self, upstream: Upstream) -> None:
        command = [str(BIN), "client", "--url", upstream.url, "--web", "--server-port", "0"]
        environment = {**os.environ, "DEEPWELL_CLIENT__TOKEN": "page-secret"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("* Running on local URL:  http://127.0.0.1:"), line
        self.url = line.split()[-1]
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.fixture(scope="module")
def page(upstream: Upstream) -> Iterator[Page]:
    made = Page(upstream)
    yield made
    made.stop()


def ask(page: Page, **changed: Any) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": "How many days?"}]}
    return httpx.post(f"{page.url}/answer", **{"json": body, "timeout": 60, **changed})


def test_the_page_streams_thinking_and_answer_apart(page: Page, upstream: Upstream) -> None:
    events = [json.loads(line) for line in ask(page).text.splitlines()]
    assert "".join(e["text"] for e in events if e["type"] == "reasoning").strip() == THOUGHT
    assert "".join(e["text"] for e in events if e["type"] == "text") == ANSWER
    assert events[-1]["type"] == "finish" and events[-1]["usage"]["prompt"] == 40
    assert upstream.headers[-1]["authorization"] == "Bearer page-secret"


def test_the_page_never_has_the_token(page: Page) -> None:
    for path in ("/", "/page.js", "/page.css", "/state"):
        answer = httpx.get(page.url + path)
        assert answer.status_code == 200 and "page-secret" not in answer.text
    assert "default-src 'self'" in httpx.get(page.url).headers["content-security-policy"]
    assert httpx.get(f"{page.url}/state").json()["models"] == [MODEL]


@pytest.mark.parametrize(
    "changed",
    [
        {"headers": {"Origin": "https://elsewhere.example"}},
        {"headers": {"Host": "elsewhere.example"}},
        {"headers": {"Content-Type": "text/plain"}, "json": None, "content": b"{}"},
    ],
)
def test_other_sites_in_the_browser_are_refused(page: Page, changed: dict[str, Any]) -> None:
    assert ask(page, **changed).status_code == 403


def test_what_the_page_is_sent_is_checked(page: Page) -> None:
    assert ask(page, json={"messages": [{"role": "system", "content": "x"}]}).status_code == 400
    assert "no conversation" in ask(page, json={"nothing": 1}).json()["message"]
    assert "has no model" in ask(page, json={"messages": [], "model": "gpt-9"}).json()["message"]
    refused = ask(page, json={"messages": [{"role": "user", "content": "REFUSE"}]}).text
    assert json.loads(refused)["type"] == "error" and "overloaded" in refused


@pytest.mark.slow
def test_the_page_in_a_real_browser(page: Page, upstream: Upstream) -> None:
    import shutil

    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra browser: pip install -e '.[browser]'")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            shown = browser.new_page()
            problems: list[str] = []
            shown.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
            shown.on("pageerror", lambda error: problems.append(str(error)))
            shown.goto(page.url)
            shown.wait_for_selector(f"#model option[value='{MODEL}']", state="attached")
            shown.fill("#question", "How many days? SLOW <b>\\boxed{3}</b>")
            shown.press("#question", "Enter")
            shown.wait_for_selector("#stop:not([hidden])")
            shown.wait_for_selector(".assistant .note")
            assert shown.inner_text(".assistant .answer") == ANSWER
            assert shown.inner_text(".user .text") == "How many days? SLOW <b>\\boxed{3}</b>"
            assert shown.query_selector(".user b") is None, "what was typed is shown as text"
            thinking = shown.query_selector("details.thinking")
            assert thinking and not thinking.evaluate("node => node.open"), "collapsed once the answer begins"
            assert "Thought for" in shown.inner_text("summary")
            shown.click("summary")
            assert shown.inner_text(".thinking .text").strip() == THOUGHT
            shown.fill("#question", "And where?")
            shown.click("#send")
            shown.wait_for_selector(".turn:nth-child(4) .note")
            sent = upstream.bodies[-1]["messages"]
            assert [turn["role"] for turn in sent] == ["user", "assistant", "user"] and sent[1]["content"] == ANSWER
            shown.fill("#question", "LONG")
            shown.press("#question", "Enter")
            shown.wait_for_selector("#stop:not([hidden])")
            shown.click("#stop")
            shown.wait_for_selector("text=stopped")
            shown.click("#new")
            assert shown.query_selector(".turn") is None
            assert not problems, problems
        finally:
            browser.close()
