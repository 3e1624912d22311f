"""The one reader of text: encodings and lines."""
import codecs

import pytest

from common.errors import DataError
from common.text import decoded, lines

TEXT = "un café\nзима\n冬"


@pytest.mark.parametrize("content", [TEXT.encode(), codecs.BOM_UTF8 + TEXT.encode(), TEXT.encode("utf-16"),
                                     codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be")])
def test_utf_8_and_utf_16_with_a_mark_are_read(content):
    assert decoded(content, "a.txt") == TEXT


@pytest.mark.parametrize(("content", "where"), [
    ("a\nun café".encode("latin-1"), "a.txt, line 2: not UTF-8"),
    ("冬天".encode("gbk"), "a.txt, line 1: not UTF-8"),
    ("ab".encode("utf-16-le"), "a.txt, line 1: not text"),
    (codecs.BOM_UTF16_LE + b"a", "a.txt, line 1: not UTF-16-LE"),
    (b"a\n\nb\0", "a.txt, line 3: not text"),
    (b"a\n\xffb", "a.txt, line 2: not UTF-8"),
    (b"a\nb\n\0", "a.txt, line 3: not text"),
    ("a\r\nб".encode("utf-16-le"), "a.txt, line 1: not"),
])
def test_anything_else_is_refused_with_file_and_line(content, where):
    with pytest.raises(DataError) as refusal:
        decoded(content, "a.txt")
    assert str(refusal.value).startswith(where)


def test_lines_end_at_line_ends_alone():
    assert lines("a\r\nb\rc\n\nd\u2028e\u0085f\vg\fh\n") == ["a", "b", "c", "", "d\u2028e\u0085f\vg\fh"]
    assert lines("") == []
