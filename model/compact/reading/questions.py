"""Which questions ask for text that is to be read, and for what kind of text.

Two tables of patterns, tried in order on the question in lower case. A question of `ASKED` is answered from the text in
the image alone; what a question of `HINTED` asks for often stands there in letters (a brand, an airline), but is often
seen by its logo or its shape, so there the text speaks only where it fits.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from model.languages import has_han

Kind = Literal["words", "number", "letter", "name", "time"]


class Asked(NamedTuple):
    """A question for text: which ``kind`` of text, and whether nothing but text can answer it."""

    kind: Kind
    only_text: bool


_VERB = r"(?:say|says|said|saying|read|reads|spell|spells|spelled)"
_WRITTEN = r"(?:written|writing|inscribed|engraved|spelled|spelt)"
_NAMED = (
    r"(?:streets?|roads?|avenue|lane|bus(?: line| company)?|company|airlines?|boat|ship|yacht|vessel|stores?|shops?|"
    r"business|restaurants?|cafe|bar|pub|bakery|hotel|bank|station|stop|brand|product|drink|soda|beer|wine|cereal|team|player|"
    r"book|magazine|newspaper|movie|film|website|school|stadium|building|city|town|truck|train|plane|photographer|"
    r"event)"
)
_AGO = r"(?:the |this |that |these |his |her |their )?(?:\w+ )?"

# Text, but asked for something else than what it says: how it looks, in which language, how many.
_OTHER = re.compile(
    r"^(?:how (?:many|long|big|far|tall|large)|where|why|when|who|is|are|was|were|do|does|did|can|could|would|has|have|"
    r"will)\b"
    r"|\bcolou?rs?\b|\blanguages?\b|\bgender\b|\bfingers?\b|\blights?\b|\bnumber of (?!(?:the|this|that|his|her)\b)"
    r"|\b(?:shape|material|size|font|symbol|kind|type|"
    r"style)\b|\b(?:mean|means|stand for|stands for|indicate|translate)\b|\bcross the\b"
    r"|\bwhat (?:number|numeral|hand|digit)s? (?:is|are) the (?:\w+ )?(?:hand|hands)\b"
)
_CLOCK = re.compile(r"\b(?:clocks?|watch|time)\b")

Table = tuple[tuple[Kind, re.Pattern[str]], ...]


def _table(*rows: tuple[Kind, str]) -> Table:
    return tuple((kind, re.compile(pattern)) for kind, pattern in rows)


ASKED: Table = _table(
    (
        "number",
        r"\b(?:what|which)(?:'s| is| are| was)?(?: the| this| that| his| her)? (?:\S+ ){0,3}?"
        r"(?:numbers?|numerals?|digits?|#)(?!\w)",
    ),
    ("number", r"^(?:what|which) (?:(?:jersey|bus|train|route|flight|room|license|phone|house) )?(?:no|no\.|#)(?!\w)"),
    ("number", r"\b(?:what|which) (?:is )?(?:the )?speed limit\b"),
    ("letter", r"\b(?:what|which)(?: is| are)?(?: the)? (?:\w+ )?letters? (?!word)"),
    ("words", rf"\bwhat (?:do|does|did) (?:\S+ ){{1,12}}{_VERB}\b"),
    ("words", rf"\bwhat(?:'s| is| are| was) (?:the |this |that )(?:\S+ ){{1,5}}{_VERB}\b"),
    ("words", rf"\bwhat(?:'s| is| are| was| has| does| do| words?)?\b.*\b{_WRITTEN}\b"),
    (
        "words",
        r"\b(?:what|which)(?:'s| is| are| was)?(?: the| this| that)? (?:[\w-]+ )?"
        r"(?:words?|texts?|initials|phrase|message|slogan|website|url|caption|title|street names?|names?)"
        r" (?:is|are|was|can|do|does|on|in|at|of the (?:sign|book)|that|"
        r"shown|seen|above|below|behind|across|appears?)\b",
    ),
    ("words", rf"\bwhat(?:'s| is| are) the names? of {_AGO}{_NAMED}\b"),
    ("words", r"^(?:what|which) (?:street|avenue|road|intersection)s? (?:is|are|does)\b"),
    ("words", r"^what(?:'s| is) the (?:\w+ )?(?:street name|title|website|headline|caption|slogan|inscription)\b"),
    ("words", r"^(?:please )?read (?:the|this|that|what|out|me)\b"),
)
HINTED: Table = _table(
    ("time", r"^what time (?:is|does|was it)\b(?!.*\bof\b)"),
    ("name", r"\b(?:what|which|who)\b.*\b(?:brands?|airlines?|logos?|sponsors?|sponsored)\b"),
    (
        "name",
        r"^(?:what|which) (?:\w+ ){0,2}(?:company|team|bank|store|shop|restaurant|soda|beer|car)(?:'s)? "
        r"(?:is|are|was|made|makes|name)\b",
    ),
    (
        "name",
        r"^what(?:'s| is) (?:printed )?on (?:the|this|that|his|her) (?:\w+ )?"
        r"(?:signs?|banner|billboard|shirt|jersey)\??$",
    ),
    ("name", r"^who (?:made|makes|manufactured|manufactures)\b"),
    ("name", r"\bwhat(?:'s| is) the make of\b|^what make\b"),
    ("name", r"^(?:what|which) (?:city|state|country|year) is (?:listed|shown|named|on|printed)\b"),
)
_OTHER_CHINESE = re.compile("颜色|语言|性别|手指|形状|材料|字体|多少个|几个|什么意思|吗[？?]?$")
ASKED_CHINESE: Table = _table(
    ("letter", "(?:什么|哪个|哪些)字母"),
    ("number", "几号(?!线)|(?:什么|哪个|哪些)(?:数字|号码)|(?:数字|号码|车号|编号)是(?:什么|多少|几)|限速(?:是)?多少"),
    (
        "words",
        "写(?:着|了|的)?(?:是)?(?:些)?什么|(?:什么|哪些|哪个)(?:字|单词|文字|词)|印(?:着|的|了)(?:是)?(?:什么|哪些)字",
    ),
    (
        "words",
        "(?:文字|标题|字样|路名|街名|店名|书名|网址)是什么|(?:路|街|店|书|餐厅|商店|车站|船)叫什么|念(?:什么|出来)|读出",
    ),
)
HINTED_CHINESE: Table = _table(
    ("time", "几点|什么时间"),
    (
        "name",
        "(?:什么|哪个|哪种)(?:牌子|品牌|公司|商标|队)|(?:哪|什么)(?:家|条|个)?(?:航空公司|公司|银行|商店|街)|(?:牌子|品牌)是什么",
    ),
)


def asks_for(question: str) -> Asked | None:
    """What text the question asks for; None where it asks for none."""
    text = " ".join(question.lower().replace("’", "'").split())
    if has_han(text):
        return None if _OTHER_CHINESE.search(text) else _first(text, ASKED_CHINESE, HINTED_CHINESE)
    if not _OTHER.search(text):
        for kind, pattern in ASKED:
            if pattern.search(text) and not (kind != "letter" and _CLOCK.search(text)):
                return Asked(kind, only_text=True)
        for kind, pattern in HINTED:
            if pattern.search(text):
                return Asked(kind, only_text=False)
    return None


def _first(text: str, asked: Table, hinted: Table) -> Asked | None:
    for table, only_text in ((asked, True), (hinted, False)):
        for kind, pattern in table:
            if pattern.search(text):
                return Asked(kind, only_text)
    return None
