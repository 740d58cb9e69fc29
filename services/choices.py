"""Settings that name a connector are held to the connectors there are, before anything is started with them."""

from typing import TYPE_CHECKING

from connectors import hubs, index, models, seam

if TYPE_CHECKING:
    from services.settings import Settings


def wrong_choice(settings: "Settings") -> tuple[str, str] | None:
    """Dotted name of the first setting whose connector there is not, and what is wrong; None if all are there."""
    chosen = (
        ("chat.server", settings.chat.server, models),
        ("embedding.server", settings.embedding.server, models),
        *([("rerank.server", settings.rerank.server, models)] if settings.rerank.server else []),
        ("index.lexical", settings.index.lexical, index),
        ("hub.name", settings.hub.name, hubs),
    )
    wrong = (
        (name, seam.unknown(package, value)) for name, value, package in chosen if value not in seam.names(package)
    )
    return next(wrong, None)
