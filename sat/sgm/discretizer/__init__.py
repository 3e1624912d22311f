"""Discretizations, which make the noise levels of a schedule: by formula, or from a table of training timesteps."""
from sgm.discretizer.base import Discretization
from sgm.discretizer.ramps import (
    EDMDiscretization,
    LogSNRDiscretization,
    PolyexponentialDiscretization,
    RectifiedFlowDiscretization,
    TabulatedDiscretization,
    VPRampDiscretization,
)
from sgm.discretizer.tables import (
    LegacyDDPMDiscretization,
    TableDiscretization,
    VPDiscretization,
    ZeroSNRDDPMDiscretization,
)

__all__ = [
    "Discretization", "EDMDiscretization", "LegacyDDPMDiscretization", "LogSNRDiscretization",
    "PolyexponentialDiscretization", "RectifiedFlowDiscretization", "TableDiscretization", "TabulatedDiscretization",
    "VPDiscretization", "VPRampDiscretization", "ZeroSNRDDPMDiscretization",
]
