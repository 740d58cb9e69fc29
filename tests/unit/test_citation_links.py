"""Signed links: they hold, they end, and nothing else passes for one."""

import concurrent.futures
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.citing import sources_list, without_sources_list
from pipelines.errors import BadRequest, NotFound
from pipelines.types import Chunk, Citation, Finish, Hit, Sources
from services.api.citations import after, before, missing_page, page, preferred
from services.api.schemas import CitedPassage
from services.citations import Addresses, Place, Signer, citation_secret, place_of, signer_for
from services.settings import load_settings

SECRET = b"s" * 32
DAY = 86400.0
PLACE = Place(chunk_id="5d41402abc4b2a76b9719d911017c592", begin=10, end=42)


@given(st.text(min_size=1), st.integers(0, 0xFFFF), st.integers(0, 0xFFFF))
def test_a_link_says_what_was_put_into_it(chunk: str, begin: int, end: int) -> None:
    place = Place(chunk_id=chunk.encode("utf-8", "replace").decode(), begin=begin, end=end)
    assert Signer(SECRET).read(Signer(SECRET).token(place)) == place


@given(st.text())
def test_nothing_else_is_a_link(token: str) -> None:
    with pytest.raises(NotFound):
        Signer(SECRET).read(token)


def test_every_changed_character_makes_a_link_void() -> None:
    token = Signer(SECRET).token(PLACE)
    for i, character in enumerate(token[:-1]):
        changed = token[:i] + ("A" if character != "A" else "B") + token[i + 1 :]
        with pytest.raises(NotFound):
            Signer(SECRET).read(changed)
    with pytest.raises(NotFound):
        Signer(b"t" * 32).read(token)


def test_a_link_is_the_same_for_a_quarter_and_holds_for_its_days() -> None:
    signer = Signer(SECRET, days=400)
    tokens = {signer.token(PLACE, now=day * DAY) for day in range(20_000, 20_400)}
    assert len(tokens) == 5 or len(tokens) == 4
    made = signer.token(PLACE, now=20_000 * DAY)
    assert signer.read(made, now=20_400 * DAY) == PLACE
    with pytest.raises(NotFound, match="too old"):
        signer.read(made, now=20_501 * DAY)
    assert Signer(SECRET).token(PLACE, now=0) == Signer(SECRET).token(PLACE, now=90_000 * DAY), "no end, one link"


def test_the_secret_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(lambda _: citation_secret(tmp_path), range(32)))
    assert len(secrets) == 1 and len(secrets.pop()) == 32
    (kept,) = tmp_path.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_services_that_share_a_secret_open_each_others_links(tmp_path: Path) -> None:
    def signer(secret: str, folder: str) -> Signer:
        return signer_for(load_settings({"server.citation_secret": secret, "data_dir": tmp_path / folder}, {}))

    token = signer("x" * 32, "a").token(PLACE)
    assert signer("x" * 32, "b").read(token) == PLACE and not list(tmp_path.iterdir())
    with pytest.raises(NotFound):
        signer("y" * 32, "a").read(token)
    with pytest.raises(BadRequest, match="guessed"):
        signer("short", "a")


def chunk(text: str, start: int = 0, **fields: object) -> Chunk:
    known = {"id": "c1", "document_id": "d", "knowledge_base_id": "k", "document": "a.pdf", "position": 0}
    return Chunk(**{**known, "text": text, "start": start, "end": start + len(text), **fields})  # type: ignore[arg-type]


def test_a_quote_is_found_although_its_white_space_is_folded_and_its_end_is_cut() -> None:
    text = "Leave.\n\nFull-time staff\n  have 25 days (see p. 3)."
    begin, end = place_of("Full-time staff have 25 days…", text)
    assert text[begin:end] == "Full-time staff\n  have 25 days"
    assert place_of("not there", text) == (0, 0) and place_of("", text) == (0, 0)


def test_a_passage_has_an_address_when_found_and_one_with_its_quote_when_cited() -> None:
    hit = Hit(chunk=chunk("Full-time staff have 25 days."), score=1.0)
    citation = Citation(n=1, chunk_id="c1", document_id="d", document="a.pdf", page=None, quote="have 25 days.")
    for quotes in (True, False):
        signer = Signer(SECRET)
        addresses = Addresses(signer, lambda: "http://x:1/", quotes=quotes)
        addresses.note(Sources(hits=(hit,)))
        found = addresses.urls["c1"]
        assert found.startswith("http://x:1/c/")
        addresses.note(Finish(citations=(citation,)))
        assert (addresses.urls["c1"] == found) is not quotes
        place = signer.read(addresses.urls["c1"].rpartition("/")[2])
        assert (place.begin, place.end) == ((16, 29) if quotes else (0, 0))


def test_neighbours_are_shown_without_what_they_share_with_the_passage() -> None:
    text = "one two three four five six"
    first, middle, last = chunk(text[:13]), chunk(text[8:23], 8), chunk(text[19:], 19)
    assert before(first, middle) == "one two " and after(middle, last) == " six"
    assert before(chunk("x"), chunk("y", 100)) == "x" and after(chunk("x"), chunk("y", 100)) == "y"


def test_nothing_of_a_document_becomes_markup() -> None:
    evil = "</section><script>alert(1)</script>\"'&"
    passage = CitedPassage(
        document=evil,
        document_id="d",
        chunk_id="c",
        page=3,
        heading=evil,
        quote="",
        text=evil + " tail",
        before=evil,
        after=evil,
    )
    html = page(passage, Place(chunk_id="c", begin=2, end=20), "ja")
    assert "<script" not in html and html.count("<section") == html.count("</section>") == 3
    assert html.count("<mark>") == 1 and '<html lang="ja">' in html and "3 ページ" in html


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("", "en"),
        ("ja,en;q=0.8", "ja"),
        ("fr-FR,fr;q=0.9,zh-CN;q=0.8,en;q=0.7", "zh"),
        ("en;q=0.1, zh-TW", "zh"),
        ("x;q=oops", "en"),
    ],
)
def test_the_page_speaks_the_readers_language(header: str, language: str) -> None:
    assert preferred(header) == language
    assert f'lang="{language}"' in missing_page(preferred(header))


def test_the_list_of_sources_is_plain_markdown_and_comes_off_again() -> None:
    citations = [
        Citation(n=1, chunk_id="c1", document_id="d", document="a [draft].pdf", page=3, quote=""),
        Citation(n=4, chunk_id="c2", document_id="d", document="b.md", page=None, quote=""),
    ]
    urls = {"c1": "http://x/c/1", "c2": "http://x/c/2"}
    for language, heading in (("en", "Sources"), ("ja", "出典"), ("zh", "来源")):
        listed = sources_list(citations, urls, language)  # type: ignore[arg-type]
        assert listed == (
            f"\n\n---\n**{heading}**\n\n- [1] [a \\[draft\\].pdf p.3](http://x/c/1)\n- [4] [b.md](http://x/c/2)\n"
        )
        assert without_sources_list("Twenty-five [1]." + listed) == "Twenty-five [1]."
    assert without_sources_list("A.\n\n---\nB") == "A.\n\n---\nB"
