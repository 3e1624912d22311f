"""Text from files and the keyboard: the one way in which its bytes become characters, and characters become lines."""
import codecs
import re
from pathlib import Path

from common.errors import DataError

BYTE_ORDER_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
LINE_END = re.compile(r"\r\n|\r|\n")  # str.splitlines would also split at U+2028, U+0085, \v and \f


def decoded(content: bytes, source: str | Path) -> str:
    """Return the text of UTF-8 bytes, with or without a byte order mark, or of UTF-16 bytes with one.

    Raises DataError, which names `source` and the line, for anything else, and for text with zero characters.
    """
    mark = next((mark for mark in BYTE_ORDER_MARKS if content.startswith(mark)), b"")
    encoding = BYTE_ORDER_MARKS.get(mark, "utf-8")
    try:
        text = content[len(mark):].decode(encoding)
    except UnicodeDecodeError as error:
        readable = content[len(mark):len(mark) + error.start].decode(encoding, errors="replace")
        raise DataError(f"{source}, line {_line_of_end(readable)}: not {encoding.upper()} text; save the file as "
                        "UTF-8") from error
    if "\0" in text:
        number = _line_of_end(text.partition("\0")[0])
        raise DataError(f"{source}, line {number}: not text, it contains zero bytes; save the file as UTF-8")
    return text


def printable(text: str) -> str:
    r"""Return a text in which what is no character, as half an emoji or a byte of a file's name, stands as \udcNN."""
    return text.encode("utf-8", errors="backslashreplace").decode()


def _line_of_end(text: str) -> int:
    """Return the number of the line, counted from 1, in which what follows a text begins."""
    return len(LINE_END.split(text))


def lines(text: str) -> list[str]:
    r"""Return the lines of a text, without their ends, which are \n, \r\n or \r alone."""
    parts = LINE_END.split(text)
    return parts if parts[-1] else parts[:-1]


def read_text(path: str | Path) -> str:
    """Return the text of a file. Raises DataError as `decoded` does."""
    return decoded(Path(path).read_bytes(), path)
