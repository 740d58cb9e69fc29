"""Own state in SQL: knowledge bases, documents, chunks, keys. Jobs live in dbos."""
