"""A LangChain default stack over PDF files, run by tests.bench.ingestion in an environment of its own.

`python langchain_stack.py MODEL_FOLDER DATABASE FILE…`: PyPDFLoader, RecursiveCharacterTextSplitter (1,000 characters,
200 shared, as in LangChain's tutorials), HuggingFaceEmbeddings, Milvus Lite. Prints seconds and pages as JSON; loading
the model is not in them.
"""

import json
import sys
import time


def main(model: str, database: str, paths: list[str]) -> None:
    """Ingest the files once."""
    from langchain_community.document_loaders import PyPDFLoader
    from langchain_huggingface import HuggingFaceEmbeddings
    from langchain_milvus import Milvus
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    embeddings = HuggingFaceEmbeddings(
        model_name=model, model_kwargs={"device": "cpu", "prompts": {"passage": "passage: "}},
        encode_kwargs={"prompt_name": "passage"},
    )  # fmt: skip
    embeddings.embed_documents(["warm"])
    began, cpu = time.monotonic(), time.process_time()
    pages = [page for path in paths for page in PyPDFLoader(path).load()]
    loaded = time.monotonic()
    chunks = RecursiveCharacterTextSplitter(chunk_size=1000, chunk_overlap=200).split_documents(pages)
    texts = [chunk.page_content for chunk in chunks]
    store = Milvus(
        embeddings, connection_args={"uri": database}, index_params={"index_type": "FLAT", "metric_type": "COSINE"}
    )
    store.add_texts(texts)
    hits = store.similarity_search("revenue", k=3)
    told = {
        "pages": len(pages), "chunks": len(chunks), "characters": sum(map(len, texts)), "hits": len(hits),
        "parse_s": loaded - began, "wall_s": time.monotonic() - began, "cpu_s": time.process_time() - cpu,
    }  # fmt: skip
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
