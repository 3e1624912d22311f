"""Tests of the peak signal-to-noise ratio."""
import math

import pytest

from common.decibels import EQUAL, psnr


@pytest.mark.parametrize("error, span, found", [
    (1, 255, 48.1308), (255**2, 255, 0), (0.01, 2, 26.0206), (4, 1, -6.0206)])
def test_ratio_of_the_span_to_the_error(error, span, found):
    assert psnr(error, span) == pytest.approx(found, abs=1e-4)


def test_equal_ones_are_infinite_or_as_good_as_a_mean_allows():
    assert psnr(0, 255) == math.inf and psnr(0, 255, EQUAL) == psnr(1e-12, 255, EQUAL) == EQUAL
