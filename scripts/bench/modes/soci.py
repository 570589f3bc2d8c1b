"""SOCI: the ordinary gzip layers, with indexes (v2) that the converted manifest names."""

import os
import shutil

from ..containerd import Containerd
from ..process import Daemon, answers
from .mode import ContainerdSession, Mode

PROGRAM = "bench-soci"


class Soci(Mode):
    """AWS's SOCI snapshotter."""

    name = "soci"
    tag = "soci"
    programs = (PROGRAM,)

    def missing(self):
        if not shutil.which(PROGRAM):
            return "the SOCI snapshotter (Go module) could not be built"
        return None

    def recipe(self):
        return "soci convert, index v2"

    def make(self, image):
        registry = self.lab.registry
        source = f"{registry.address}/{self.repository(image)}:plain"
        target = f"{registry.address}/{self.repository(image)}:{self.tag}"
        registry.copy_in(self.layout(image), self.repository(image), "plain")
        containerd = Containerd(os.path.join(self.lab.work, "c"), {})
        try:
            containerd.ctr("images", "pull", "--plain-http", source)
            root = os.path.join(self.lab.work, "soci")
            containerd.ctr("convert", "--root", root, source, target, client=PROGRAM)
        finally:
            containerd.stop()

    def session(self, image):
        work = self.lab.work
        socket = os.path.join(work, "snapshotter.sock")
        daemon = Daemon(
            "soci",
            [PROGRAM, "serve", "--socket", socket, "--root", os.path.join(work, "soci"),
             "--registry", self.lab.registry.name],
            os.path.join(work, "soci.log"),
            lambda: answers(socket),
        )  # fmt: skip
        pull = [PROGRAM, "rpull"]
        return ContainerdSession(self, image, "soci", pull, daemon)
