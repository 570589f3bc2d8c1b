"""The ways to start an image that are compared; each says what it lacks, makes its variant of an
image, and pulls and runs it."""

from .nacre import Nacre
from .nydus import Nydus
from .overlayfs import Overlayfs
from .skopeo import Skopeo
from .soci import Soci
from .stargz import Stargz


def every(lab):
    """All modes by name, in the order of reports."""
    found = [
        Overlayfs(lab),
        Overlayfs(lab, encrypted=True),
        Stargz(lab),
        Stargz(lab, optimised=True),
        Soci(lab),
        Nydus(lab),
        Nydus(lab, prefetch=True),
        Skopeo(lab),
        Nacre(lab),
        Nacre(lab, encrypted=True),
        Nacre(lab, profile=True),
        Nacre(lab, encrypted=True, profile=True),
    ]
    return {mode.name: mode for mode in found}
