"""Each trap of the host, set for real: servers on loopback, unit files in a directory, versions as tools print them."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from services import doctor, doctor_fix, doctor_host, doctor_network
from services.probes import PROBES
from services.settings import Settings, load_settings

Serve = Callable[..., int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that answers the given paths with 200, those under /v1 with 401 where it has a key."""
    running: list[ThreadingHTTPServer] = []

    def start(*paths: str, key: bool = False) -> int:
        class Answers(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                refused = key and self.path.startswith("/v1")
                self.send_response(401 if refused else 200 if self.path in paths else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        running.append(ThreadingHTTPServer(("127.0.0.1", 0), Answers))
        threading.Thread(target=running[-1].serve_forever, args=(0.05,), daemon=True).start()
        return running[-1].server_port

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def settings(**changed: Any) -> Settings:
    return load_settings({name.replace("__", "."): value for name, value in changed.items()}, environ={})


def test_an_ollama_open_to_the_network(serve: Serve) -> None:
    """Loopback stands for an address that others reach, since a test opens nothing to the network."""
    number = serve("/api/version")
    found = doctor_network.ollama_exposure(settings(), number, ["127.0.0.1"])
    assert not found.ok and "without a key" in found.found and "OLLAMA_HOST=127.0.0.1:11434" in found.fix
    assert doctor_network.ollama_exposure(settings(), serve("/"), ["127.0.0.1"]).ok
    assert doctor_network.ollama_exposure(settings(), number, []).ok
    assert not any(host.startswith("127.") for host in doctor_network.own_addresses())


def test_vllm_paths_outside_v1(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    number = serve("/metrics", "/version", key=True)
    url = f"http://127.0.0.1:{number}"
    kept = doctor_network.vllm_exposure(settings(chat__server="vllm", chat__url=url))
    assert kept.ok and "/metrics" in kept.found and "keep it private" in kept.found
    monkeypatch.setattr(doctor_network, "is_private", lambda _: False)
    found = doctor_network.vllm_exposure(settings(chat__server="vllm", chat__url=url + "/v1"))
    assert not found.ok and "gateway" in found.fix and "--api-key" not in found.fix
    no_key = f"http://127.0.0.1:{serve('/metrics', '/v1/models')}"
    assert "--api-key" in doctor_network.vllm_exposure(settings(chat__server="vllm", chat__url=no_key)).fix
    assert doctor_network.vllm_exposure(settings()).ok


def test_private_addresses() -> None:
    assert all(doctor_network.is_private(host) for host in ("127.0.0.1", "localhost", "10.1.2.3", "192.168.0.5"))
    assert not any(doctor_network.is_private(host) for host in ("8.8.8.8", "no-such-host.invalid"))


@pytest.mark.parametrize("quotes", ["\u201c\u201d", "\u2018\u2019"])
def test_curly_quotes_in_a_unit_file(tmp_path: Path, quotes: str) -> None:
    drop_in = tmp_path / "ollama.service.d" / "override.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(f"# a comment with {quotes}\n[Service]\nEnvironment={quotes[0]}OLLAMA_HOST=0.0.0.0{quotes[1]}\n")
    found = doctor_host.unit_files(settings(), [tmp_path])
    assert not found.ok
    assert "override.conf:3" in found.found
    assert 'Environment="OLLAMA_HOST=0.0.0.0"' in found.fix
    drop_in.write_text('[Service]\nEnvironment="OLLAMA_HOST=127.0.0.1"\n')
    (tmp_path / "dangling.service").symlink_to(tmp_path / "nowhere")
    assert doctor_host.unit_files(settings(), [tmp_path, tmp_path / "missing"]).ok


def test_localhost_inside_a_container(serve: Serve, free_port: int, tmp_path: Path) -> None:
    nothing = settings(chat__server="ollama", chat__url=f"http://localhost:{free_port}")
    found = doctor_host.container_addresses(nothing, inside=True)
    assert not found.ok and "DEEPWELL_CHAT__URL" in found.found
    assert f"host.docker.internal:{free_port}" in found.fix
    assert doctor_host.container_addresses(nothing, inside=False).ok
    answered = settings(chat__server="ollama", chat__url=f"http://localhost:{serve('/')}")
    assert doctor_host.container_addresses(answered, inside=True).ok
    assert doctor_host.container_addresses(settings(index__url="http://milvus:19530"), inside=True).ok
    mark = tmp_path / ".dockerenv"
    assert not doctor_host.in_container([mark])
    mark.touch()
    assert doctor_host.in_container([mark])


@pytest.mark.parametrize(
    ("printed", "ok"),
    [
        ({"docker": "2.40.3\n"}, True),
        ({"docker": "v2.24.0"}, True),
        ({"docker": "2.23.3"}, False),
        ({"docker-compose": "docker-compose version 1.29.2, build unknown"}, False),
        ({"docker-compose": "Docker Compose version v2.29.1"}, True),
        ({}, True),
    ],
)
def test_compose_too_old(printed: dict[str, str], ok: bool) -> None:
    found = doctor_host.compose_version(settings(), lambda command: printed.get(command[0], ""))
    assert found.ok is ok
    assert ok or "docker-compose-plugin" in found.fix


def test_difys_proxy() -> None:
    def running(rules: str) -> Callable[[list[str]], str]:
        return lambda command: "docker-api-1\ndocker-ssrf_proxy-1\n" if command[1] == "ps" else rules

    assert doctor_host.dify_proxy(settings(), lambda _: "").ok
    refused = doctor_host.dify_proxy(settings(), running("http_access allow client\nhttp_access deny all\n"))
    assert not refused.ok and "Squid" in refused.fix
    assert doctor_host.dify_proxy(settings(), running("http_access allow localnet\n")).ok


def test_a_command_that_fails_says_nothing() -> None:
    assert doctor_host.output(["no-such-command-anywhere"]) == ""
    assert doctor_host.output(["false"]) == ""
    assert doctor_host.output(["echo", "1.2"]) == "1.2\n"


def test_a_window_too_small_for_thinking() -> None:
    r1 = {"chat__server": "vllm", "chat__model": "deepseek-r1:7b"}
    small = doctor_host.window(settings(**r1, chat__context=4096))
    assert not small.ok and "DEEPWELL_CHAT__CONTEXT" in small.fix
    assert doctor_host.window(settings(**r1)).ok, "the defaults fit together"
    assert not doctor_host.window(settings(**r1, retrieval__top_k=40)).ok
    assert doctor_host.window(settings(chat__server="vllm", chat__model="smollm2", chat__context=4096)).ok


def test_a_port_in_use(serve: Serve, free_port: int) -> None:
    assert doctor_network.port(settings(server__port=free_port)).ok
    assert doctor_network.port(settings(server__port=serve("/healthz"))).ok, "a Deepwell that runs is no fault"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        number = int(other.getsockname()[1])
        found = doctor_network.port(settings(server__port=number))
    assert not found.ok and str(number) in found.found and "DEEPWELL_SERVER__PORT" in found.fix
    assert doctor_network.port(settings(server__port=0)).ok


def test_the_clock() -> None:
    several = settings(store__url="postgresql://one@db/deepwell")
    assert not doctor_host.clock(several, synchronised="no").ok
    assert doctor_host.clock(several, synchronised="yes").ok
    assert doctor_host.clock(settings(), synchronised="no").ok, "one machine agrees with itself"
    assert not doctor_host.clock(settings(), now=0.0, synchronised="yes").ok
    assert doctor_host.clock(settings(), now=time.time(), synchronised="").ok


def test_doctor_runs_them_all(tmp_path: Path) -> None:
    report = doctor.examine(settings(data_dir=tmp_path, server__port=0))
    names = [check["name"] for check in report["checks"]]
    assert len(names) == len(set(names)) == len(doctor.CHECKS) + len(doctor_host.HOST_CHECKS)
    assert {"Ollama exposure", "unit files", "Compose", "window", "clock", "processes", "port"} <= set(names)
    assert all(check["ok"] or check["fix"] for check in report["checks"])


#: traps of the articles -> the check that finds each, of this machine or of the model server
TRAPS = {
    "an Ollama open to the network": "Ollama exposure",
    "curly quotes in a systemd unit": "unit files",
    "localhost from inside a container": "addresses in a container",
    "Dify's SSRF proxy": "Dify's proxy",
    "Compose too old": "Compose",
    "vLLM's paths outside /v1": "vLLM exposure",
    "a wrong template": "template",
    "a wrong tokenizer": "tokenizer round trip",
    "a context too small": "window",
    "a full disk": "disk",
    "a port in use": "port",
    "a wrong clock": "clock",
    "too few open files": "open files",
    "too few processes": "processes",
}


@pytest.mark.parametrize("trap", TRAPS)
def test_every_trap_of_the_articles_has_a_check(trap: str, tmp_path: Path) -> None:
    checks = {check["name"] for check in doctor.examine(settings(data_dir=tmp_path, server__port=0))["checks"]}
    assert TRAPS[trap] in checks | set(PROBES), trap


def test_metrics_without_a_key_are_said(tmp_path: Path) -> None:
    found = doctor.exposure(settings(metrics__host="0.0.0.0", metrics__port=9464))
    assert "metrics on 0.0.0.0 ask for none" in found.found
    assert "metrics" not in doctor.exposure(settings()).found


def test_nothing_is_changed_without_fix(tmp_path: Path) -> None:
    unit = tmp_path / "ollama.service"
    text = "[Service]\n# \u201ckept\u201d\nEnvironment=\u201cOLLAMA_HOST=127.0.0.1\u201d\nUMask=\u20180077\u2019\n"
    unit.write_text(text)
    data = tmp_path / "data"
    doctor.examine(settings(data_dir=data, server__port=0))
    doctor_host.unit_files(settings(), [tmp_path])
    assert unit.read_text() == text and not data.exists()
    done = doctor_fix.mend(settings(data_dir=data), [tmp_path])
    assert len(done) == 2 and data.is_dir() and data.stat().st_mode & 0o077 == 0
    assert unit.read_text() == "[Service]\n# \u201ckept\u201d\nEnvironment=\"OLLAMA_HOST=127.0.0.1\"\nUMask='0077'\n"
    assert (tmp_path / "ollama.service.before-deepwell").read_text() == text
    assert doctor_fix.mend(settings(data_dir=data), [tmp_path]) == []
