"""SOCI: the ordinary gzip layers, with indexes (v2) that the converted manifest names."""

import os
import shutil

from ..containerd import Containerd
from ..process import Daemon, answers
from .mode import PLAIN, ContainerdSession, Mode

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

    def sources(self, image):
        return [(self.repository(image), PLAIN)]

    def recipe(self):
        return "soci convert, index v2"

    def make(self, image):
        source = self.push_plain(image)
        target = source.removesuffix(PLAIN) + self.tag
        containerd = Containerd(os.path.join(self.lab.work, "c"), {})
        try:
            containerd.ctr("content", "fetch", "--plain-http", source)
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
