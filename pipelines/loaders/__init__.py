"""One file per kind of document. Each offers `SUFFIXES` and `load(path) -> Iterator[Page]`."""
