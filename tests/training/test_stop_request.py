"""Tests of signals while training: the step under way is finished, and a second Ctrl+C ends at once."""
import os
import signal

import pytest

from training.stop_request import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_is_noted_and_the_handler_before_returns(number):
    before = signal.getsignal(number)
    with StopRequest() as request:
        assert request.of_any_rank() is None
        os.kill(os.getpid(), number)
        assert request.of_any_rank() == number
    assert signal.getsignal(number) is before


def test_only_a_second_interrupt_ends_at_once():
    with StopRequest() as request:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # as from a launcher that passes it on
        assert request.of_any_rank() == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
