"""The external blending detector: where two sources were put together, and how sure that is.

``BlendingDetector`` is ours, trained on self-blended pictures; ``ExternalDetector`` runs third-party ones
behind the same interface.
"""

from vlmforensics.blending.detector import BlendingDetector
from vlmforensics.blending.external import ExternalDetector

__all__ = ["BlendingDetector", "ExternalDetector"]
