"""What `python -m services.app` and `python -m services.worker` have in common."""

import sys
from collections.abc import Callable

from pipelines.errors import BadRequest, RagError
from services.settings import Settings, load_settings
from services.supervisor import EX_CONFIG


def process(run: Callable[[Settings], None]) -> None:
    """Run a process with the settings in force. What is refused is one line on standard error, not a traceback."""
    try:
        run(load_settings())
    except RagError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(EX_CONFIG if isinstance(error, BadRequest) else 1)
