"""The warnings of a run on the page: those of its own thread, each once."""
import logging
import threading

from cogvideo.studio.forms import GUIDER, SAMPLER, SCHEDULE
from cogvideo.studio.making import Asked, ready
from cogvideo.studio.warned import MOST, Warned

logger = logging.getLogger(__name__)


def test_a_runs_own_warnings_are_kept_once():
    warned = Warned()
    with warned.heard():
        for line in ("first", "second\n  line", "first"):
            logger.warning(line)
        logger.info("not a warning")
        other = threading.Thread(target=logger.warning, args=("another run's",))
        other.start()
        other.join()
    logger.warning("after it")
    assert warned.lines == ["first", "second line"]


def test_warnings_are_text_and_their_number_is_bounded():
    warned = Warned()
    assert warned.html() == ""
    warned.lines += ["<b>0</b>", *map(str, range(1, MOST + 3))]
    assert "&lt;b&gt;0" in warned.html() and "and 3 more" in warned.html() and f">{MOST}<" not in warned.html()


def test_what_a_run_takes_no_notice_of_is_told_on_the_page(studio):
    parts = {SAMPLER: ("EulerEDMSampler", {}), SCHEDULE: ("EDMDiscretization", {}), GUIDER: ("IdentityGuider", {})}
    warned = Warned()
    with warned.heard():
        ready(studio, Asked("tiny_t2v", "a red circle", negative="blurry", steps=4, parts=parts))
    assert any("negative" in line for line in warned.lines)
