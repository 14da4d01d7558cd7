"""Words by Unicode's rule, with the standard library's character data."""

from __future__ import annotations

import re
import unicodedata
from typing import Final


def words_of(text: str, *, lower: bool = False) -> list[str]:
    """The words of a text, as `word_codec` splits it.

    These are the segments of Unicode's default rule that are not white space, with one difference: a full stop, comma, colon
    or semicolon is always its own word, between digits too. Reference: Unicode Standard Annex 29, section 4.

    >>> words_of("Don't panic: 42!")
    ["Don't", 'panic', ':', '42', '!']
    >>> words_of("हिन्दी 汉字")
    ['हिन्दी', '汉', '字']
    """
    text = text.lower() if lower else text
    kinds = text.translate({ord(character): _kind(character) for character in set(text)})
    return [text[found.start() : found.end()] for found in _WORD.finditer(kinds)]


# One letter for each class of characters: a(lphabetic), h(ebrew), n(umeric), k(atakana), _ what joins words, m(iddle dots), '
# and q for other apostrophes, ", e(xtend) and format characters, z(ero-width joiner), p(ictographic), r(egional indicator),
# s(pace), o(ther).
_X: Final = "(?:e|zp?)*+"
_LETTERS: Final = f"""(?:n{_X}|a{_X}(?:m{_X}(?=[ah]))?|h{_X}(?:m{_X}(?=[ah])|"{_X}(?=h)|'{_X})?)++"""
_RUN: Final = f"(?:{_LETTERS}(?:['q]{_X}{_LETTERS})*+|(?:k{_X})++)"
_JOINED: Final = f"(?:_{_X})"
_WORD: Final = re.compile(f"{_JOINED}*+{_RUN}(?:{_JOINED}++{_RUN})*+{_JOINED}*+|{_JOINED}++|r{_X}(?:r{_X})?|(?:zp?|[^s]){_X}")

_DOTS: Final = "\u00b7\u0387\u055f\u05f4\u2027"
"""Marks at half height between the letters of a word, as in the Catalan col·lecció."""
_LETTER_LIKE: Final = re.compile(
    "[\u02c2-\u02c5\u02d2-\u02d7\u02de\u02df\u02e5-\u02eb\u02ed\u02ef-\u02ff\u055a-\u055c\u055e\u058a\u05f3\ua708-\ua716"
    "\ua720\ua721\ua789\ua78a\uab5b\u24b6-\u24e9\U0001f130-\U0001f149\U0001f150-\U0001f169\U0001f170-\U0001f189]"
)
"""Symbols that count as letters: modifiers of tone, Armenian and Hebrew marks, letters in circles and squares."""
_KATAKANA: Final = re.compile(
    "[\u3031-\u3035\u309b\u309c\u30a0-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u32d0-\u32fe\u3300-\u3357\uff66-\uff9d"
    "\U0001aff0-\U0001afff\U0001b000\U0001b120-\U0001b122\U0001b155\U0001b164-\U0001b167]"
)
_APART: Final = re.compile(
    "[\u3006\u3007\u3021-\u3029\u3038-\u303a\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00017000-\U00018cff\U00018d00-\U00018d8f"
    "\U0001b170-\U0001b2ff\U00020000-\U0003ffff\u3041-\u3096\u309d-\u309f\U0001b001-\U0001b11f\U0001b132\U0001b150-\U0001b152"
    "\U0001f200\u0e00-\u0edf\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaadf"
    "\U00011700-\U0001174f]"
)
"""Letters of which each is a word: ideographs, Hiragana, and scripts without spaces, which need a dictionary (Thai, Khmer)."""


def _kind(character: str) -> str:
    """The class of a character, by its category, or by its block if the category is not enough."""
    category, point = unicodedata.category(character), ord(character)
    if character.isspace():
        return "s"
    if character in "'\"":
        return character
    if character == "\u200d":
        return "z"
    # Marks, half-width voicing marks, skin tones; tags and other format characters.
    if category[0] == "M" or character in "\u200c\uff9e\uff9f" or 0x1F3FB <= point <= 0x1F3FF:
        return "e"
    if category == "Cf" and character != "\u200b":
        return "e"
    if category == "Pc":
        return "_"
    if character in _DOTS:
        return "m"
    if character in "\u2019\uff07":
        return "q"
    if _KATAKANA.match(character):
        return "k"
    if category == "Nd" or character == "\u066b":
        return "n"
    if category[0] == "L" or category == "Nl" or _LETTER_LIKE.match(character):
        hebrew = category == "Lo" and (0x0590 <= point <= 0x05FF or 0xFB1D <= point <= 0xFB4F)
        return "o" if _APART.match(character) else "h" if hebrew else "a"
    if 0x1F1E6 <= point <= 0x1F1FF:
        return "r"
    pictures = 0x2190 <= point <= 0x2BFF or 0x1F000 <= point <= 0x1FAFF
    return "p" if (category == "So" and (pictures or character in "©®\u3030\u303d\u3297\u3299")) or character in "‼⁉" else "o"
