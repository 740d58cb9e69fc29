"""Whether a place in streamed text stands in Markdown code (CommonMark 0.31, sections 4.5 and 6.1, simplified).

Kept apart because the reasoning parser and the citation parser both leave code alone. Simplified: a fence is a line
that begins with three or more backticks or tildes; a code span ends with its line.
"""

import re

_TOKEN = re.compile(r"\n|`+|~+|[^\n`~]+")


class CodeTracker:
    """Follows text and knows whether the next character stands in a fence or in a code span. O(n) over all calls."""

    __slots__ = ("_blank", "_char", "_fence", "_inline", "_run", "_run_opens_line", "fences")

    def __init__(self) -> None:
        #: how many fences have been opened
        self.fences = 0
        self.reset()

    def reset(self) -> None:
        """What comes next begins a line outside code."""
        self._fence = ""  # the run that opened the fence
        self._inline = 0  # length of the run that opened the code span
        self._blank = True  # nothing but white space in this line so far
        self._char = ""
        self._run = 0  # backticks or tildes just seen, not yet judged
        self._run_opens_line = False

    def advance(self, text: str) -> None:
        """Follow the next piece of text."""
        if self._run == 0 and "`" not in text and ("~" not in text or _few_tildes(text)):
            self._plain(text)
            return
        for token in _TOKEN.findall(text):
            if token[0] in "`~":
                self._marks(token)
            else:
                self._judge()
                self._plain(token)

    def fenced(self) -> bool:
        """Whether a character that is no backtick or tilde would stand in a fence now."""
        self._judge()
        return bool(self._fence)

    def inline(self) -> int:
        """Length of the run that opened the code span we are in; 0 outside. The span may turn out never to close."""
        self._judge()
        return 0 if self._fence else self._inline

    def _plain(self, text: str) -> None:
        line = text.rpartition("\n")[2]
        if len(line) != len(text):
            self._inline = 0
            self._blank = True
        if self._blank and line and not line.isspace():
            self._blank = False

    def _marks(self, token: str) -> None:
        if self._char != token[0]:
            self._judge()
            self._char = token[0]
            self._run_opens_line = self._blank
        self._run += len(token)
        self._blank = False

    def _judge(self) -> None:
        if not self._run:
            return
        run, char = self._run, self._char
        self._run, self._char = 0, ""
        if self._run_opens_line and run >= 3 and not (self._fence or self._inline):
            self._fence = char * run
            self.fences += 1
        elif self._fence:
            if self._run_opens_line and char == self._fence[0] and run >= len(self._fence):
                self._fence = ""
        elif char == "`":
            self._inline = 0 if self._inline == run else self._inline or run


def _few_tildes(text: str) -> bool:
    """Whether no run of tildes in it, as it ends, is long enough for a fence ("about ~5 km", "~/path")."""
    return "~~~" not in text and not text.endswith("~")
