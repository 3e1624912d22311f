"""Guiders: which branches a guided step evaluates, how they are combined, and how strongly."""
from sgm.guiders.base import COND, UNCOND, Estimates, Evaluation, Guider, IdentityGuider, Pass, WeakNetwork
from sgm.guiders.classifier_free import (
    APG,
    CFGPlusPlus,
    CFGZeroStar,
    ControlCFG,
    DynamicCFG,
    TangentialCFG,
    VanillaCFG,
)
from sgm.guiders.weakened import (
    Autoguidance,
    PerturbedAttentionGuidance,
    SkipLayerGuidance,
    SpatioTemporalSkipGuidance,
    WeakenedGuidance,
)

__all__ = [
    "APG", "COND", "UNCOND", "Autoguidance", "CFGPlusPlus", "CFGZeroStar", "ControlCFG", "DynamicCFG", "Estimates",
    "Evaluation", "Guider", "IdentityGuider", "Pass", "PerturbedAttentionGuidance", "SkipLayerGuidance",
    "SpatioTemporalSkipGuidance", "TangentialCFG", "VanillaCFG", "WeakNetwork", "WeakenedGuidance",
]
