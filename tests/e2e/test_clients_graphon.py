"""The workflow files of deploy/dify/ in Dify's own graph engine, which has an environment of its own."""

import pytest

from tests.e2e.conftest import Clients
from tests.e2e.test_clients_python import ANSWER, THOUGHT, environment, python312, run

pytestmark = [pytest.mark.slow, pytest.mark.clients]


@pytest.mark.timeout(1200)
def test_difys_graph_engine_takes_the_workflow_files(clients: Clients) -> None:
    # graphon asks for 100 packages, 900 MB; these are the ones that reading and running a workflow imports
    found = run(environment("graphon", python312(), "--no-deps"), "graphon", clients)
    assert found["files"] == {"chat": [], "external-knowledge": [], "without-plugins": []}
    broken = found["broken"]
    assert broken["dangling edge"] == ["graph.edge_unknown_node: Graph edge references an unknown node."]
    assert "separated" in broken["wrong enum"][0] and "reply" in broken["unknown node"][0]
    assert broken["unknown variable"] == ["answer asks for llm.words"]
    right = found["runs"]["right"]["outputs"]
    assert (right["answer"], right["thinking"]) == (ANSWER, THOUGHT), "asked over HTTP, without a plugin"
    assert right["sources"].startswith("- [handbook.md") and right["sources"].count("](http") == 1
    assert "401" in found["runs"]["wrong key"]["error"] and "unknown API key" in found["runs"]["wrong key"]["error"]
