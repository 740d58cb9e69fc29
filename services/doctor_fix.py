"""What `deepwell doctor --fix` mends by itself: things with one right state that nobody can want otherwise."""

from collections.abc import Iterable
from pathlib import Path

from pipelines.errors import Forbidden
from services.doctor_host import CURLY, UNIT_DIRECTORIES, curly_lines
from services.settings import Settings

#: ending of the copy of a file as it was
BEFORE = ".before-deepwell"
SINGLE = str.maketrans({"\u2018": "'", "\u2019": "'"})


def mend(settings: Settings, directories: Iterable[Path] = UNIT_DIRECTORIES) -> list[str]:
    """Mend, and say what was done. Raises Forbidden where a file may not be changed."""
    done = []
    if not settings.data_dir.exists():
        settings.data_dir.mkdir(parents=True, mode=0o700)
        done.append(f"made the data directory {settings.data_dir}")
    for path in dict.fromkeys(path for path, _, _ in curly_lines(directories)):
        straighten(path)
        done.append(
            f"straight quotes in {path} (as it was: {path.name}{BEFORE}); now `systemctl daemon-reload` and restart it"
        )
    return done


def straighten(path: Path) -> None:
    """Write a unit file with straight quotes, comments left as they are, and keep a copy of it."""
    text = path.read_text("utf-8")
    lines = [
        line if line.lstrip().startswith(("#", ";")) else CURLY.sub('"', line.translate(SINGLE))
        for line in text.splitlines(keepends=True)
    ]
    try:
        path.with_name(path.name + BEFORE).write_text(text, "utf-8")
        path.write_text("".join(lines), "utf-8")
    except PermissionError:
        raise Forbidden(f"{path} belongs to root: `sudo deepwell doctor --fix`, or change it yourself") from None
