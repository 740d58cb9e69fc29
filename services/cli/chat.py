"""`deepwell client`: a chat with any OpenAI-compatible server, in the terminal or on a page in the browser."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from services.cli.options import AsJson, DataDir, show_json

if TYPE_CHECKING:
    from pipelines.types import Event, Message
    from services.talk import Talk

HELP = "/new begins a new conversation, /model NAME changes the model, Ctrl-C stops an answer, Ctrl-D ends."
ARGV = (
    "warning: a token on the command line is seen by everybody on this machine (ps) and kept in the shell's history; "
    "use DEEPWELL_CLIENT__TOKEN or --token-file"
)


def client(
    question: Annotated[
        str, typer.Argument(help="Ask this and end; a conversation if left out.", show_default=False)
    ] = "",
    url: Annotated[
        str | None, typer.Option("--url", help="Base URL of an OpenAI-compatible server.", show_default=False)
    ] = None,
    eas_endpoint: Annotated[
        str | None, typer.Option("--eas_endpoint", help="Endpoint of a PAI-EAS service, as its console shows it.")
    ] = None,
    token_file: Annotated[Path | None, typer.Option("--token-file", help="File that holds the key or token.")] = None,
    eas_token: Annotated[
        str | None, typer.Option("--eas_token", "--token", help="Key or token; other users see it in `ps`.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Model; the server's first if left out.")] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=0, help="Tokens of an answer, thinking included; 0 plans them.")
    ] = 0,
    thinking: Annotated[bool, typer.Option("--thinking/--no-thinking", help="Show what the model thinks.")] = True,
    web: Annotated[bool, typer.Option("--web", help="Serve a page in the browser, on this machine only.")] = False,
    server_name: Annotated[str, typer.Option("--server-name", help="Loopback address of the page.")] = "127.0.0.1",
    server_port: Annotated[
        int, typer.Option("--server-port", min=0, max=65535, help="Port of the page; 0 takes a free one.")
    ] = 7860,
    inbrowser: Annotated[bool, typer.Option("--inbrowser", help="Open the page.")] = False,
    share: Annotated[bool, typer.Option("--share", help="Refused: nothing is published.", hidden=True)] = False,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> None:
    """Chat with a model: the running Deepwell, or any OpenAI-compatible server. Thinking is shown apart."""
    import asyncio

    from pipelines.errors import BadRequest
    from services.talk import connect

    if share:
        raise BadRequest("--share would publish your token's model to everybody: use `deepwell up` and keys instead")
    where, token, name = _endpoint(url, eas_endpoint, token_file, eas_token, data_dir)
    talk = asyncio.run(connect(where, token, model or name, max_tokens))
    if web:
        from services.client_web import serve

        serve(talk, server_name, server_port, inbrowser)
        return
    question = question or _piped(as_json)
    if as_json:
        show_json(_whole(talk, question))
    elif question:
        _say(talk, [_user(question)], thinking)
    else:
        _converse(talk, thinking)


def _piped(wanted: bool) -> str:
    """The question on standard input; "" at a terminal, unless one is `wanted`."""
    from pipelines.errors import BadRequest

    if not wanted and sys.stdin.isatty():
        return ""
    if not (question := sys.stdin.read().strip()):
        raise BadRequest("there is no question: give one, or send it on standard input")
    return question


def _endpoint(
    url: str | None, eas: str | None, token_file: Path | None, token: str | None, data_dir: Path | None
) -> tuple[str, str, str]:
    """Address, token and model: by flag, by setting, else the Deepwell of the data directory. Raises BadRequest."""
    from connectors.models.openai import base_url
    from pipelines.errors import BadRequest
    from services.cli.client import address_and_key
    from services.settings import load_settings
    from services.talk import eas_url

    wanted = load_settings({"data_dir": data_dir}).client
    if url and eas:
        raise BadRequest("--url and --eas_endpoint name two servers: give one of them")
    if token:
        sys.stderr.write(ARGV + "\n")
    elif token_file:
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadRequest(f"--token-file {token_file} cannot be read: {error}") from None
    secret = token or wanted.token.get_secret_value()
    if eas:
        return eas_url(eas), secret, wanted.model
    if url or wanted.url:
        return base_url(url or wanted.url), secret, wanted.model
    own, key = address_and_key(data_dir)
    return base_url(own), secret or key, wanted.model


def _user(text: str) -> "Message":
    from pipelines.types import Message

    return Message(role="user", content=text)


def _whole(talk: "Talk", question: str) -> dict[str, Any]:
    """One answer, for a program."""
    import asyncio
    from dataclasses import asdict

    from pipelines.types import Finish, Reasoning, Text

    began = time.monotonic()
    found: list[Event] = []

    async def collect() -> None:
        found.extend([event async for event in talk.answer([_user(question)])])

    asyncio.run(collect())
    finish = next((event for event in found if isinstance(event, Finish)), Finish())
    return {
        "url": talk.url,
        "model": talk.model,
        "answer": "".join(event.text for event in found if isinstance(event, Text)),
        "reasoning": "".join(event.text for event in found if isinstance(event, Reasoning)),
        "finish_reason": finish.reason,
        "usage": asdict(finish.usage),
        "warnings": list(finish.warnings),
        "seconds": round(time.monotonic() - began, 3),
    }


def _converse(talk: "Talk", thinking: bool) -> None:
    """Questions from the terminal until its end."""
    from pipelines.errors import RagError
    from pipelines.types import Message

    print(f"{talk.model} ({talk.profile.title}) at {talk.url}\n{HELP}")
    messages: list[Message] = []
    while True:
        try:
            line = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        try:
            if line == "/new":
                messages = []
            elif line.startswith("/model "):
                talk = talk.to(line.removeprefix("/model ").strip())
            elif line.startswith("/"):
                print(HELP)
            elif line:
                answered = _say(talk, [*messages, _user(line)], thinking)
                messages += [_user(line), Message(role="assistant", content=answered)] if answered else []
        except RagError as error:
            print(f"deepwell: {error}")


def _say(talk: "Talk", messages: "list[Message]", thinking: bool) -> str:
    """Show an answer as it comes; the text of it, also where Ctrl-C stopped it."""
    import asyncio
    from contextlib import aclosing

    shown: list[str] = []

    async def show() -> None:
        async with aclosing(talk.answer(messages)) as events:
            async for event in events:
                shown.append(_show(event, thinking))

    try:
        asyncio.run(show())
    except KeyboardInterrupt:
        print("\n(stopped)")
    return "".join(shown).strip()


def _show(event: "Event", thinking: bool) -> str:
    """Write an event to the terminal; gives what of it is the answer."""
    from pipelines.types import Finish, Reasoning, Text

    told = ""
    if isinstance(event, Reasoning) and thinking:
        sys.stdout.write(f"\x1b[2m{event.text}\x1b[0m" if sys.stdout.isatty() else event.text)
    elif isinstance(event, Text):
        told = event.text
        sys.stdout.write(told)
    elif isinstance(event, Finish):
        used = event.usage
        print(f"\n  ({used.prompt} + {used.completion} tokens, {used.reasoning} of them thinking)")
        for warning in event.warnings:
            print(f"  note: {warning}")
    sys.stdout.flush()
    return told
