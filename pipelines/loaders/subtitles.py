"""Subtitles and transcripts (WebVTT, SubRip): what is said, by whom, and when."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

from pipelines.loaders import Options, Sample, read_text
from pipelines.markup import one_line
from pipelines.types import Page

SUFFIXES = frozenset({".vtt", ".srt"})
MEDIA_TYPES = frozenset({"text/vtt", "application/x-subrip"})

_TIMES = re.compile(r"((?:\d+:)?\d{1,2}:\d{2})[.,]\d{1,3}[ \t]+-->[ \t]+(?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3}")
_VOICE = re.compile(r"<v(?:\.[^\s>]*)?\s+([^>]+)>")
_TAG = re.compile(r"</?[^<>]{0,200}>|\{\\[^{}]{0,50}\}")
_STOP = (".", "!", "?", "…", "。", "！", "？", '"', "”", "」")
#: characters after which a new paragraph begins at the end of a sentence
_PARAGRAPH = 400


def recognises(sample: Sample) -> bool:
    """WebVTT begins with its name (W3C WebVTT, 4.1); SubRip with a number and a time line."""
    head = sample.head.removeprefix(b"\xef\xbb\xbf")
    return head.startswith(b"WEBVTT") or bool(re.match(rb"\s*\d+\s*\n\d\d:\d\d:\d\d,\d{3} --> ", head))


def load(path: Path, options: Options) -> Iterator[Page]:
    """One page without a number: a paragraph for each speaker's turn, the time of its beginning in front."""
    text = read_text(path, options).replace("\r\n", "\n")
    yield Page(text="\n\n".join(_paragraphs(_cues(text))))


def _cues(text: str) -> Iterator[tuple[str, str, str]]:
    """Time, speaker ("" if nobody is named) and words of each cue."""
    for block in re.split(r"\n[ \t]*\n", text):
        lines = block.strip("\n").split("\n")
        for place, line in enumerate(lines):
            found = _TIMES.match(line.strip())
            if found:
                spoken = "\n".join(lines[place + 1 :])
                voice = _VOICE.search(spoken)
                words = one_line(html.unescape(_TAG.sub("", spoken)))
                if words:
                    yield found.group(1), one_line(voice.group(1)) if voice else "", words
                break


def _paragraphs(cues: Iterator[tuple[str, str, str]]) -> Iterator[str]:
    begin, speaker, said = "", "", ""
    for time, who, words in cues:
        full = len(said) > _PARAGRAPH and said.endswith(_STOP)
        if said and (who != speaker or full):
            yield _paragraph(begin, speaker, said)
            said = ""
        if not said:
            begin, speaker, said = time, who, words
        elif not said.endswith(words):  # rolling captions repeat the line before
            said = f"{said} {words}"
    if said:
        yield _paragraph(begin, speaker, said)


def _paragraph(begin: str, speaker: str, said: str) -> str:
    return f"[{begin}] {speaker}: {said}" if speaker else f"[{begin}] {said}"
