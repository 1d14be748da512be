"""Model families: each names its sites; who reads whom is declared or traced.

A family is found by the name of the model's class, so there is no list to edit. A package outside of stepmask adds one
in the same way, from a module that its entry point names (`stepmask.plugins`).
"""

from stepmask.inspection.architecture import Architecture
from stepmask.inspection.inputs import noise
from stepmask.inspection.registry import denoiser_of, register, registered_architectures

__all__ = ["Architecture", "denoiser_of", "noise", "register", "registered_architectures"]
