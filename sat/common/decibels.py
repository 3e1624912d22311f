"""The peak signal-to-noise ratio."""
import math

EQUAL = 100.0  # dB that equal videos count as in a mean, and the most that any others do


def psnr(error: float, span: float, most: float = math.inf) -> float:
    """Return the PSNR in dB of a mean square error between values that span `span`, at most `most`."""
    return most if error == 0 else min(20 * math.log10(span) - 10 * math.log10(error), most)
