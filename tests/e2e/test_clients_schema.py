"""Schemathesis over the OpenAPI document: no 5xx, no undocumented status. Runs after the other tests of clients."""

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import status_code_conformance

from tests.e2e.conftest import Clients


def test_every_call_answers_what_the_document_says(clients: Clients) -> None:
    check(clients.url, clients.key)


def check(url: str, key: str, examples: int = 6) -> None:
    """Call every operation with generated parameters and bodies; every failure is listed."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    failures = []
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) > 40
    for operation in operations:

        @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def call(case: schemathesis.Case) -> None:
            response = case.call(headers={"Authorization": f"Bearer {key}"}, timeout=30)
            case.validate_response(response, checks=[not_a_server_error, status_code_conformance])

        try:
            call()
        except (AssertionError, schemathesis.errors.SchemathesisError, BaseExceptionGroup) as error:
            failures.append(f"{operation.label}: {error}")
    assert not failures, "\n\n".join(failures)
