"""`deepwell compose up`: the stack of docker-compose.yml on this machine, from secrets to the first answer."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from services.cli.options import AsJson, show_json

if TYPE_CHECKING:
    from services.docker import Docker

app = typer.Typer(help="Run Deepwell with Docker Compose.", no_args_is_help=True)

Profile = Annotated[
    str, typer.Argument(help="ollama or vllm (by this machine), ollama-cpu, ollama-gpu, vllm-cpu, vllm-gpu, or none.")
]
More = Annotated[list[str] | None, typer.Option("--with", help="webui or observability; may be given several times.")]
Wait = Annotated[int, typer.Option("--wait", min=1, help="Seconds until everything is ready; the pull is not counted.")]


@app.command("up")
def up(
    profile: Profile = "ollama",
    more: More = None,
    model: Annotated[str, typer.Option("--model", help="Model of `deepwell plan`.")] = "deepseek-r1:7b",
    context: Annotated[int, typer.Option("--context", min=0, help="Tokens of a window; 0 leaves it to the plan.")] = 0,
    users: Annotated[int, typer.Option("--users", min=0, help="Requests at once; 0 takes 1.")] = 0,
    gpus: Annotated[int, typer.Option("--gpus", min=0, help="GPUs of this machine to use; 0 takes all.")] = 0,
    wait: Wait = 1800,
    directory: Annotated[Path, typer.Option("--directory", help="Where docker-compose.yml is.")] = Path(),
    prepare_only: Annotated[
        bool, typer.Option("--prepare", help="Write secrets, .env and the plan; start nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write secrets and the planned settings, start the stack, wait until it has answered a question."""
    from services import compose
    from services.docker import Docker
    from services.machine import this_machine

    root = compose.project(directory)
    wanted = compose.Wanted(profile=profile, more=more or (), model=model, context=context, users=users, gpus=gpus)
    hardware, docker = this_machine(), Docker(root)
    profiles = compose.profiles_of(wanted, hardware)
    if not prepare_only:
        docker.check(profiles)
        docker.check_ports(profiles, compose.settings_in(root))
    compose.prepare(root, wanted, hardware, [] if prepare_only else docker.volumes())
    settings = compose.settings_in(root)
    if not prepare_only:
        _start(docker, profiles, wait)
    if as_json:
        show_json({"profiles": profiles, "directory": str(root), "settings": settings, "started": not prepare_only})


def _start(docker: "Docker", profiles: list[str], wait: int) -> None:
    from services.compose import MODEL_SERVERS

    docker.validate()
    docker.build()
    if profiles and profiles[0] in MODEL_SERVERS:
        docker.pull_model(profiles[0])
    docker.up(wait)
    if code := docker.run_in_service("deepwell", "samples"):
        raise typer.Exit(code)
