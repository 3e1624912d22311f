"""Measures and the other columns of results: what each means, its unit, its better direction, and its axis."""
from dataclasses import dataclass
from typing import Literal

ENDS = ("_low", "_high")  # suffixes of the columns that hold a measure's interval


@dataclass(frozen=True)
class Measure:
    """A column of results.

    `better` is the direction in which a value is better, or where the best value is. `log` draws it on a logarithmic
    axis; `cost` marks a number of steps or evaluations, which studies double: its axis is logarithmic with a tick at
    each value.
    """

    name: str
    meaning: str
    unit: str = ""
    better: Literal["lower", "higher", "near 1", ""] = ""
    log: bool = False
    cost: bool = False

    @property
    def spoken(self) -> str:
        """The name with spaces."""
        return self.name.replace("_", " ")

    @property
    def best(self) -> str:
        """Which values are better, in words."""
        return {"": "", "near 1": "1 is best"}.get(self.better, f"{self.better} is better")

    @property
    def notes(self) -> str:
        """The unit and the better direction."""
        return ", ".join(filter(None, (self.unit, self.best)))


KNOWN = {one.name: one for one in (
    Measure("sampler", "the algorithm that goes from noise to a latent"),
    Measure("schedule", "the noise levels of all steps"),
    Measure("guidance", "how conditional and unconditional estimates are combined; none is the conditional one alone"),
    Measure("variant", "what is exchanged in the model or its training"),
    Measure("steps", "intervals of the sampler's schedule, or of training", cost=True),
    Measure("seed", "the number that all random draws follow from"),
    Measure("passes", "network evaluations per video: the cost", cost=True),
    Measure("error", "distance from the point to which the exact probability flow leads from the same noise", "",
            "lower", log=True),
    Measure("energy", "energy distance between draws and data; 0 for the same distribution", "", "lower", log=True),
    Measure("floor", "the least that a measure can be expected to reach: its value for the data themselves"),
    Measure("ceiling", "accuracy of rendered clips that were only encoded and decoded"),
    Measure("accuracy", "share of videos in which all attributes are as their caption says", "share of videos",
            "higher"),
    Measure("distance", "Frechet distance between features of the videos and of rendered clips", "units of features",
            "lower", log=True),
    Measure("diversity", "deviation between videos of one caption, relative to that of rendered clips", "", "near 1"),
    Measure("color", "share of videos with the right colour", "share of videos", "higher"),
    Measure("shape", "share of videos with the right shape", "share of videos", "higher"),
    Measure("motion", "share of videos with the right motion", "share of videos", "higher"),
    Measure("background", "share of videos with the right background", "share of videos", "higher"),
    Measure("videos", "number of videos judged"),
    Measure("valid_loss", "loss of the averaged weights on held-out clips", "", "lower", log=True),
    Measure("loss", "mean training loss of the batches that the row stands for", "", "lower", log=True),
    Measure("seconds_per_step", "time of a training step", "s", "lower"),
    Measure("deviation", "standard deviation of the loss between batches", "", "lower", log=True),
    Measure("relative", "deviation over mean loss", "", "lower"),
    Measure("declared", "order of convergence that the sampler declares"),
    Measure("fitted", "minus the slope of log error over log steps"),
    Measure("error_floor", "distance between the ends of two methods that solve the flow with many steps", "", "lower",
            log=True),
    Measure("pixel_error", "root mean square distance of the video's pixels from those at the flow's end", "of 255",
            "lower", log=True),
    Measure("other_basin", "share of videos whose judged attributes are not those at the flow's end", "share of videos",
            "lower"),
    Measure("unsettled", "share of noises whose flow's end two methods do not agree on; they have no error"),
    Measure("place_error", "distance of the object from its straight course", "pixels", "lower"),
    Measure("speed_error", "speed beyond what the world draws", "pixels a frame", "lower"),
    Measure("size_error", "distance of the radius from one that stays, grows or shrinks evenly", "pixels", "lower"),
    Measure("color_error", "CIE 1976 difference from the caption's colour", "delta E", "lower"),
    Measure("edge_overlap", "intersection over union with the best-fitting ideal shape", "", "higher"),
    Measure("bits", "exact negative log-likelihood under the caption", "bits per dimension", "lower"),
    Measure("bits_off", "how far a video's bits are from the mean of exact draws", "bits per dimension", "lower",
            log=True),
    Measure("same_clip", "probability that two videos of a caption show the same clip, by exact mode weights", "", ""),
    Measure("psnr", "peak signal-to-noise ratio of held-out clips, encoded and decoded", "dB", "higher"),
    Measure("ssim", "structural similarity of held-out clips, encoded and decoded", "", "higher"),
    Measure("flicker", "mean absolute difference of successive frames of reconstructions", "of 255"),
    Measure("source_flicker", "the same of the clips themselves", "of 255"),
    Measure("sharpness", "energy of the edges of reconstructions", "% of the clips'", ""),
    Measure("numbers", "numbers of the latent for each pixel of the video"),
    Measure("cost", "what both sides of a comparison were given"),
    Measure("pairs", "number of pairs compared"),
    Measure("by accuracy", "pairs whose accuracy differs (McNemar, Holm's correction within the row, 5 %)"),
    Measure("by solver error", "pairs whose solver error differs (Wilcoxon's signed ranks, the same correction)"),
    Measure("p_holm", "p corrected for the number of rows (Holm 1979)"),
    Measure("error_p", "probability of solver errors as different, if both sides were equally good (Wilcoxon's signed "
                       "ranks of their logarithm)"),
    Measure("error_p_holm", "error_p corrected for the number of rows (Holm 1979)"),
    Measure("p", "probability of differences in accuracy at least as large, if both sides were equally good "
                 "(McNemar's exact test)"),
)}


TESTED = {"_p": "probability of differences in {0} as large, if both sides were equally good (Wilcoxon's signed ranks)",
          "_p_holm": "the same for {0}, corrected for the number of rows (Holm 1979)"}


def measure_of(name: str) -> Measure:
    """Return the measure of a column; one that is not declared here has a linear axis and no meaning."""
    for end, meaning in TESTED.items():
        if name not in KNOWN and name.removesuffix(end) in KNOWN:
            return Measure(name, meaning.format(name.removesuffix(end).replace("_", " ")))
    return KNOWN.get(name, Measure(name, ""))
