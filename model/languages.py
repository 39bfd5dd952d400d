"""Which language a text is in, told by its script and, for Latin letters, by how many of its words are known."""

from __future__ import annotations

import re

HAN = "[\\u3007\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff]"
"""One character of Chinese, for regular expressions."""

_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # ？ Ａ ３ ...
_LIKE_ASCII = {
    "\u3000": " ",
    "。": ".",
    "、": ",",
    "｡": ".",
    "､": ",",
    "「": '"',
    "」": '"',
    "『": '"',
    "』": '"',
    "《": '"',
    "》": '"',
}
_PLAIN = _FULL_WIDTH | {ord(sign): ord(plain) for sign, plain in _LIKE_ASCII.items()}


def plain_width(text: str) -> str:
    """The text with the full-width signs, letters and digits of East Asian keyboards as the ASCII that they look like.
    No sign is added or lost, so spans stay what they are."""
    return text if text.isascii() else text.translate(_PLAIN)


NAMES = {"en": "English", "zh": "Chinese"}

_SCRIPTS = {  # letters that are neither Latin nor Han, and whose writing says more than "another script"
    "Japanese": "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f",
    "Korean": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
}
_FOREIGN = frozenset(  # short words of other languages that are pieces of English ones, or English words in few images
    re.findall(
        r"\w+",
        "de el la los las es en un una que est le les et il du des che di ci das ist der ein eine und con por para "
        "como se su nel het een dat ne co",
    )
)
_HAN = re.compile(HAN)
_LATIN_WORD = re.compile(r"[A-Za-z\u00c0-\u024f\u1e00-\u1eff]+")
_OTHER_LETTER = re.compile(r"[^\W\d_]")
_FEWEST_WORDS = 2  # a single word may be a name
_LEAST_KNOWN = 0.5
_LARGE_VOCABULARY = 2000


def has_han(text: str) -> bool:
    """Whether there is a Chinese character in the text."""
    return not text.isascii() and _HAN.search(text) is not None


def language_of(text: str) -> str:
    """``zh`` or ``en``: the language to answer a text in. In a mixed one, a Chinese character counts as much as a word
    in Latin letters."""
    if not has_han(text):
        return "en"
    return "zh" if len(_HAN.findall(text)) > len(_LATIN_WORD.findall(text)) else "en"


def foreign_script(text: str) -> str | None:
    """What most letters of the text are, where that is neither Latin nor Chinese: a language's name or "another
    script". Japanese is told by its kana, even among Chinese characters."""
    if text.isascii():
        return None
    for name, own_letters in _SCRIPTS.items():
        if re.search(f"[{own_letters}]", text):
            return name
    letters = _OTHER_LETTER.findall(text)
    own = sum(len(word) for word in _LATIN_WORD.findall(text)) + len(_HAN.findall(text))
    return "another script" if len(letters) > 2 * own else None


def is_foreign_latin(text: str, vocabulary: frozenset[str]) -> bool:
    """Whether a text in Latin letters is no English, as far as its words tell: fewer than half are whole words of
    ``vocabulary``. Spanish is none, nor are mashed keys. Never so of a single word, which may be a name, nor for a
    vocabulary too small to tell."""
    words = [word for word in _LATIN_WORD.findall(text.lower()) if len(word) > 1 or word in "ai"]
    if len(words) < _FEWEST_WORDS or len(vocabulary) < _LARGE_VOCABULARY:
        return False
    known = sum(word in vocabulary and word not in _FOREIGN for word in words)
    return known < _LEAST_KNOWN * len(words)
