"""`deepwell search` and `deepwell ask`."""

import sys
from typing import Annotated, Any

import typer

from services.cli.options import AsJson, DataDir, show_json

#: the stable shapes of `--json`; the REST API adds links and warnings of its own
HIT = ("chunk_id", "document_id", "document", "page", "score", "text")
CITATION = ("n", "chunk_id", "document_id", "document", "page", "quote")
ANSWER = ("answer", "reasoning", "citations", "abstained", "model", "timings")

Kbs = Annotated[
    list[str] | None, typer.Option("--kb", help="Knowledge base; may be given several times. Default: all.")
]


def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    kb: Kbs = None,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=100, help="Passages to show.")] = 6,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Find the passages that fit a question, without a model."""
    from services.cli.client import Api

    body = {"query": query, "knowledge_bases": kb or None, "top_k": top_k}
    found = Api(data_dir).call("POST", "/v1/search", json=body)
    if as_json:
        show_json({"hits": [_only(HIT, hit) for hit in found["hits"]]})
        return
    for n, hit in enumerate(found["hits"], 1):
        page = f" p.{hit['page']}" if hit["page"] else ""
        print(f"[{n}] {hit['score']:.3f}  {hit['document']}{page}  ({hit['chunk_id']})")
        print("    " + " ".join(hit["text"].split())[:240] + "\n")
    if not found["hits"]:
        print("nothing found")


def ask(
    question: Annotated[str, typer.Argument(help="The question, in any language.")],
    kb: Kbs = None,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", min=1, max=100, help="Passages to read.")] = None,
    thinking: Annotated[bool, typer.Option("--thinking/--no-thinking", help="Show what the model thinks.")] = True,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Answer a question from the documents, with citations."""
    from services.cli.client import Api

    api = Api(data_dir)
    body: dict[str, Any] = {"question": question, "knowledge_bases": kb or None, "top_k": top_k}
    if as_json:
        answer = api.call("POST", "/v1/ask", json=body)
        citations = [_only(CITATION, citation) for citation in answer["citations"]]
        show_json(_only(ANSWER, {**answer, "citations": citations}))
        return
    with api.stream("/v1/ask", {**body, "stream": True}) as events:
        for event in events:
            show_event(event, thinking)


def _only(names: tuple[str, ...], found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in names}


def show_event(event: dict[str, Any], thinking: bool) -> None:
    """Write one event of an answer to the terminal as it comes."""
    if event["type"] == "reasoning" and thinking:
        sys.stdout.write(f"\x1b[2m{event['text']}\x1b[0m" if sys.stdout.isatty() else event["text"])
    elif event["type"] == "text":
        sys.stdout.write(event["text"])
    elif event["type"] == "finish":
        print()
        for citation in event["citations"]:
            page = f" p.{citation['page']}" if citation["page"] else ""
            print(f"  [{citation['n']}] {citation['document']}{page}: {' '.join(citation['quote'].split())[:160]}")
        for warning in event["warnings"]:
            print(f"  note: {warning}")
        print(f"  ({event['model']}, {event['timings'].get('total', 0):.1f} s)")
    sys.stdout.flush()
