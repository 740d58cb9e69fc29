"""`deepwell prompt show`: what a model is sent."""

from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.options import AsJson, DataDir, show_json

if TYPE_CHECKING:
    from pipelines.types import Hit, Message

app = typer.Typer(help="See the prompts that models are sent.", no_args_is_help=True)
#: question and passages of the example, by language
EXAMPLES: dict[str, tuple[str, tuple[str, str]]] = {
    "en": (
        "How many days of leave are there?",
        ("Full-time staff have 25 days of annual leave.", "Leave is requested three days before."),
    ),
    "zh": ("每年有几天年假？", ("全职员工每年享有25天年假。", "请假须提前三天申请。")),
    "ja": ("年次有給休暇は何日ありますか。", ("正社員の年次有給休暇は25日です。", "休暇は3日前までに申請します。")),
}


@app.callback()
def prompt() -> None:
    """See the prompts that models are sent."""


@app.command("show")
def show(
    question: Annotated[str, typer.Argument(help="A question; an example's if left out.", show_default=False)] = "",
    kb: Annotated[
        list[str] | None,
        typer.Option("--kb", help="Fill it with passages of this knowledge base; needs a running Deepwell."),
    ] = None,
    model: Annotated[str, typer.Option("--model", help="Show it for a model of this name.")] = "deepseek-r1:7b",
    language: Annotated[str, typer.Option("--language", help="Language of the example: en, ja or zh.")] = "en",
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Show a question as it goes to the model, turn by turn, with passages filled in."""
    from pipelines.errors import BadRequest
    from pipelines.profiles import profile_for

    if language not in EXAMPLES:
        raise BadRequest(f"--language {language} has no prompt: use one of {', '.join(EXAMPLES)}")
    asked = question or EXAMPLES[language][0]
    hits = _found(asked, kb, data_dir) if kb else _example(EXAMPLES[language][1])
    profile = profile_for(model)
    messages = messages_for(asked, hits, model)
    if as_json:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        show_json({"model": model, "profile": profile.name, "messages": turns})
        return
    for message in messages:
        print(f"----- {message.role} -----\n{message.content}")
    ending = " and opens the thinking: <think>" if profile.starts_in_thinking else ""
    print(f"----- the model's turn: the server's template writes its beginning{ending} -----")


def messages_for(question: str, hits: "tuple[Hit, ...]", model: str) -> "list[Message]":
    """The turns that `pipelines.answer` makes of a question and its passages."""
    from pipelines.answer import prompt_messages
    from pipelines.budget import plan
    from pipelines.profiles import profile_for
    from pipelines.turn import Options, Turn
    from pipelines.types import Message

    profile = profile_for(model)
    turn = Turn([Message(role="user", content=question)], Options(today=date.today()))
    budget = plan(question, hits, (), window=profile.context, max_tokens=4096, thinking=None)
    return prompt_messages(turn, budget, profile)


def _example(texts: tuple[str, str]) -> "tuple[Hit, ...]":
    return tuple(_hit(n, "handbook.pdf", n, text) for n, text in enumerate(texts, 1))


def _found(question: str, kb: list[str], data_dir: Any) -> "tuple[Hit, ...]":
    from services.cli.client import Api

    found = Api(data_dir).call("POST", "/v1/search", json={"query": question, "knowledge_bases": kb})
    return tuple(_hit(n, hit["document"], hit["page"], hit["text"]) for n, hit in enumerate(found["hits"], 1))


def _hit(n: int, document: str, page: int | None, text: str) -> "Hit":
    from pipelines.types import Chunk, Hit

    chunk = Chunk(
        id=f"c{n}", document_id="d", knowledge_base_id="k", document=document, text=text, position=n, page=page
    )
    return Hit(chunk=chunk, score=1 / n)
