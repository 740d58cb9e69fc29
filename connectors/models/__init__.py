"""Model and embedding servers. A file may offer chat(...), embeddings(...) and rerank(...)."""
