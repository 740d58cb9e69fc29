"""What a source has now against what came of it before: which items to fetch, which documents have gone."""

import fnmatch
import json
import mimetypes
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from connectors.source import Item, Unlisted
from pipelines import errors
from pipelines.errors import Conflict, RagError, TooLarge, UnsupportedDocument
from services.store.sources import Known, LeftOut

#: problems that are shown; all are counted
SHOWN = 100
#: a document that failed for one of these is fetched again though its source says it is the same
TRANSIENT = frozenset(
    kind.code
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, RagError) and (kind.retryable or kind is errors.StorageFull)
)
#: kinds of media that no loader reads: not worth fetching
_UNREAD = ("audio", "video", "font")


@dataclass(slots=True, kw_only=True)
class Plan:
    """What a sync is to do; kept in a file, so that a crash does not change it."""

    #: items to fetch
    fetch: list[Item] = field(default_factory=list)
    #: external ids of documents that the source no longer has
    gone: list[str] = field(default_factory=list)
    #: external ids that were left out before and are no longer there
    forget: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[dict[str, str]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Keep it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        found = {
            "fetch": [asdict(item) for item in self.fetch], "gone": self.gone, "forget": self.forget,
            "counts": self.counts, "problems": self.problems,
        }  # fmt: skip
        path.with_suffix(".new").write_text(json.dumps(found), encoding="utf-8")
        path.with_suffix(".new").replace(path)

    @classmethod
    def read(cls, path: Path) -> "Plan":
        """What `write` kept."""
        found = json.loads(path.read_text(encoding="utf-8"))
        items = [Item(**item) for item in found.pop("fetch")]
        return cls(fetch=items, counts=Counter(found.pop("counts")), **found)

    def problem(self, external_id: str, code: str, error: str) -> None:
        """Show it, unless there are many already."""
        if len(self.problems) < SHOWN:
            self.problems.append({"external_id": external_id, "code": code, "error": error})


class Comparison:
    """`see` everything a source lists, then `plan`."""

    def __init__(self, known: Mapping[str, Known], left_out: Mapping[str, LeftOut], options: Mapping[str, str]) -> None:
        self._known = known
        self._left_out = left_out
        self._include = patterns(options.get("include", ""))
        self._exclude = patterns(options.get("exclude", ""))
        self._seen: set[str] = set()
        self._closed: list[str] = []
        self._plan = Plan()

    def see(self, one: Item | Unlisted) -> None:
        """Take note of one thing that the source lists."""
        if isinstance(one, Unlisted):
            self._closed.append(one.prefix)
            self._plan.counts["failed"] += 1
            self._plan.problem(one.prefix, "source_unavailable", one.reason)
        elif one.external_id not in self._seen and self._wanted(one.external_id):
            self._seen.add(one.external_id)
            self._plan.counts["listed"] += 1
            self._sort_in(one)

    def _wanted(self, external_id: str) -> bool:
        included = not self._include or matches(external_id, self._include)
        return included and not matches(external_id, self._exclude)

    def _sort_in(self, item: Item) -> None:
        before, reason = self._known.get(item.external_id), self._left_out.get(item.external_id)
        if before and item.version and before.version == item.version and before.error_code not in TRANSIENT:
            self._plan.counts["unchanged"] += 1
        elif reason and item.version and reason.version == item.version:
            self._plan.counts[counted_as(reason.code)] += 1
            self._plan.problem(item.external_id, reason.code, reason.error)
        else:
            self._plan.fetch.append(item)

    def plan(self) -> Plan:
        """What is to be done, once everything was seen."""
        closed = tuple(self._closed)
        missing = [one for one in self._known if one not in self._seen]
        self._plan.gone = [one for one in missing if not one.startswith(closed)]
        self._plan.counts["unchanged"] += len(missing) - len(self._plan.gone)
        self._plan.forget = [one for one in self._left_out if one not in self._seen]
        return self._plan


def patterns(text: str) -> list[str]:
    """Glob patterns, separated by commas."""
    return [pattern.strip() for pattern in text.split(",") if pattern.strip()]


def matches(external_id: str, wanted: Sequence[str]) -> bool:
    """Whether a pattern fits the whole of it or its last part; `*` stands for anything, slashes too."""
    last = external_id.rstrip("/").rpartition("/")[2]
    return any(fnmatch.fnmatchcase(text, pattern) for pattern in wanted for text in (external_id, last))


def counted_as(code: str) -> str:
    """Files of kinds that nobody reads are skipped, everything else has failed."""
    return "skipped" if code == UnsupportedDocument.code else "failed"


def worth_fetching(item: Item, limit: int) -> None:
    """Raises TooLarge, UnsupportedDocument for what would be refused after it was fetched."""
    kind = (mimetypes.guess_type(item.name)[0] or "").partition("/")[0]
    if kind in _UNREAD:
        raise UnsupportedDocument(f"{item.name} is {kind}: Deepwell reads text")
    if item.size == 0:
        raise UnsupportedDocument(f"{item.name} is empty")
    if item.size is not None and item.size > limit:
        raise TooLarge(f"{item.name} is larger than {limit >> 20} MiB: split it, or raise setting server.max_upload_mb")


def may_delete(plan: Plan, gone: Sequence[str], location: str, allow_empty: bool) -> None:
    """Raises Conflict where everything a source had has gone at once: that is a mistake more often than a wish."""
    left = plan.counts["listed"] + plan.counts["unchanged"] - len(set(gone) - set(plan.gone))
    if gone and left <= 0 and not allow_empty:
        raise Conflict(
            f"{location} suddenly has nothing any more, and {len(gone)} documents come from it: nothing was deleted. "
            "If that is right, say so with `deepwell source sync --allow-empty`; else see whether it is mounted"
        )
