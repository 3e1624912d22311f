"""The ending of runs by pages, each of which ends its own run alone."""
from types import SimpleNamespace

import pytest

pytest.importorskip("gradio", reason="the page needs requirements-studio.txt")

from cogvideo.studio.stopping import Stopped, Stops, check_going

ONE, OTHER = SimpleNamespace(session_hash="one"), SimpleNamespace(session_hash="other")


def test_a_page_ends_its_own_run_also_while_it_waits():
    stops = Stops()
    assert "waiting" in stops.begin(ONE)
    stops.begin(OTHER)
    assert "stopping" in stops.stop(ONE)
    with stops.running(ONE) as stopping, stops.running(OTHER) as going:
        assert stopping.is_set() and not going.is_set()


def test_nothing_runs_before_a_run_and_after_it_even_if_the_browser_is_gone():
    stops = Stops()
    assert "nothing" in stops.stop(ONE)
    stops.begin(ONE)

    def run():
        with stops.running(ONE):
            yield

    running = run()
    next(running)
    running.close()  # as the server does with the run of a page that is closed
    assert "nothing" in stops.stop(ONE)


def test_a_stop_is_of_one_run_and_not_of_the_next():
    stops = Stops()
    stops.begin(ONE)
    stops.stop(ONE)
    stops.begin(ONE)
    with stops.running(ONE) as stopping:
        assert not stopping.is_set()


@pytest.mark.parametrize("ended", ["stopping", "closing"])
def test_a_run_ends_with_its_event_or_the_studio(ended):
    events = {name: SimpleNamespace(is_set=lambda name=name: name == ended) for name in ("stopping", "closing")}
    with pytest.raises(Stopped):
        check_going(SimpleNamespace(closing=events["closing"]), events["stopping"])
