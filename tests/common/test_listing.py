"""Lists of names in messages."""
import logging

from common.listing import Remarks, listed


def test_the_first_three_names_stand_for_all():
    assert listed(["a"]) == "a" and listed("abc") == "a, b, c" and listed("abcde") == "a, b, c and 2 more"
    assert len(listed(["a" * 5000])) < 130


def test_a_kind_of_remark_is_logged_once_with_a_count(caplog):
    remarks = Remarks("picture")
    for i in range(5):
        remarks.add("too small", f"{i}.png", f"{i} pixels")
    remarks.add("torn", "/" + "folder/" * 40 + "b.png", "at a corner")
    remarks.warn(logging.getLogger())
    first, second = caplog.messages
    assert first == "5 pictures too small: 0.png (0 pixels), 1.png (1 pixels), 2.png (2 pixels) and 2 more"
    assert second.startswith("1 picture torn: …") and second.endswith("/b.png (at a corner)") and len(second) < 160
    remarks.warn(logging.getLogger())
    assert len(caplog.messages) == 2
