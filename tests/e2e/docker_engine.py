"""A Docker engine of our own, started by hand, and images made of this machine's package archives alone.

Nothing outside its directory is touched: its own data, its own socket, no bridge, no rule of the firewall.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

STAND_INS = Path(__file__).parents[1] / "files" / "docker"
PACKAGES = ["docker.io", "debootstrap"]
BASE, POSTGRES = "local/python:stand-in", "local/postgres:stand-in"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def tools() -> None:
    """Skip the test where Docker's daemon cannot be had and started."""
    if os.getuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("starts Docker's daemon by hand: needs root on a Debian")
    if shutil.which("dockerd") is None or shutil.which("debootstrap") is None:
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]
        if subprocess.run(install, capture_output=True, check=False).returncode:
            pytest.skip(f"needs the packages {' '.join(PACKAGES)}, which cannot be installed here")


@contextmanager
def engine(folder: Path) -> Iterator[dict[str, str]]:
    """A running engine; gives the environment in which `docker` and `docker compose` use it."""
    socket = folder / "docker.sock"
    plugins = folder / "config" / "cli-plugins"
    plugins.mkdir(parents=True)
    compose = next(Path(path) / "compose" / "docker-compose" for path in sys.path if (Path(path) / "compose").is_dir())
    (plugins / "docker-compose").symlink_to(compose)
    settings = {
        "data-root": str(folder / "data"), "exec-root": str(folder / "exec"), "pidfile": str(folder / "pid"),
        "hosts": [f"unix://{socket}"], "iptables": False, "ip6tables": False, "bridge": "none",
    }  # fmt: skip
    (folder / "daemon.json").write_text(json.dumps(settings))
    environment = os.environ | {"DOCKER_HOST": f"unix://{socket}", "DOCKER_CONFIG": str(folder / "config")}
    with (folder / "log").open("w") as log:
        daemon = subprocess.Popen(["dockerd", "--config-file", folder / "daemon.json"], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while subprocess.run(["docker", "info"], env=environment, capture_output=True, check=False).returncode:
            if daemon.poll() is not None or time.monotonic() > deadline:
                pytest.skip(f"Docker's daemon does not start here: {(folder / 'log').read_text()[-500:]}")
            time.sleep(0.5)
        yield environment
    finally:
        daemon.terminate()
        daemon.wait(60)
        for mounted in (folder / "exec" / "netns").glob(
            "*"
        ):  # the daemon leaves it, and nothing could remove the folder
            subprocess.run(["umount", mounted], capture_output=True, check=False)


def images(folder: Path, environment: dict[str, str]) -> None:
    """The base of our own image, and PostgreSQL, from Debian's packages."""
    suite = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(), re.MULTILINE)
    archive = archive_of(suite[1]) if suite else ""
    if suite is None or not archive:
        pytest.skip("no Debian archive is configured here")
    root = folder / "rootfs"
    wanted = "--include=python3,python3-venv,ca-certificates"
    made = ["debootstrap", "--variant=minbase", wanted, suite[1], str(root), archive]
    if subprocess.run(made, capture_output=True, check=False).returncode:
        pytest.skip(f"debootstrap cannot make a system here: {_text(root / 'debootstrap' / 'debootstrap.log')[-500:]}")
    shutil.copy(CERTIFICATES, root / "etc/ssl/certs/ca-certificates.crt")
    (root / "etc/pip.conf").write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
    with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(["docker", "import", "-", BASE], stdin=tar.stdout, env=environment, check=True)
    shutil.rmtree(root)
    build = ["docker", "build", "--network", "host", "--build-arg", f"BASE={BASE}"]
    subprocess.run(
        [*build, "-f", STAND_INS / "postgres.Dockerfile", "-t", POSTGRES, STAND_INS],
        env=environment | {"DOCKER_BUILDKIT": "0"}, check=True,
    )  # fmt: skip


def archive_of(suite: str) -> str:
    """The archive from which this machine has its own packages; "" for none."""
    for path in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")):
        for stanza in _text(path).split("\n\n"):
            fields = dict(re.findall(r"^(\w+):\s*(.+)$", stanza, re.MULTILINE))
            if suite in fields.get("Suites", "").split() and "main" in fields.get("Components", "").split():
                return str(fields["URIs"]).split()[0]
        if line := re.search(rf"^deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+{suite}\s+main", _text(path), re.MULTILINE):
            return line[1]
    return ""


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.is_file() else ""
