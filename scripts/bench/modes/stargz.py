"""containerd's stargz snapshotter; optimised: with the files that a start reads in front, as its
own optimiser records them."""

import functools
import os
import shutil

from ..containerd import Containerd
from ..process import Daemon, answers
from .mode import PLAIN, ContainerdSession, Mode

PROGRAM = "bench-stargz"
# How long the optimiser watches a workload that does not end by itself.
PERIOD_S = 90


class Stargz(Mode):
    """eStargz, lazily."""

    def __init__(self, lab, optimised=False):
        super().__init__(lab)
        self.optimised = optimised
        self.name = "stargz-opt" if optimised else "stargz"
        self.tag = "estargz-opt" if optimised else "estargz"
        self.programs = [PROGRAM, "ctr-remote"]

    def missing(self):
        if not shutil.which("ctr-remote"):
            return "ctr-remote (Debian package stargz-snapshotter) is not installed"
        if not shutil.which(PROGRAM):
            return "the stargz snapshotter (Go module) could not be built"
        return None

    def sources(self, image):
        return [(self.repository(image), PLAIN)]

    def recipe(self):
        return f"ctr-remote optimize, {PERIOD_S} s" if self.optimised else "ctr-remote convert"

    def make(self, image):
        source = self.push_plain(image)
        target = source.removesuffix(PLAIN) + self.tag
        containerd = Containerd(os.path.join(self.lab.work, "c"), {})
        try:
            # It leaves uncompressed layers where temporary files are.
            env = {"TMPDIR": self.lab.work}
            ctr = functools.partial(containerd.ctr, client="ctr-remote", env=env)
            if self.optimised:
                ctr("images", "pull", "--plain-http", source)
                period = ["--period", PERIOD_S]
                ctr("images", "optimize", "--oci", "--net-host", *period, source, target)
            else:
                # Without unpacking it.
                ctr("content", "fetch", "--plain-http", source)
                ctr("images", "convert", "--estargz", "--oci", source, target)
            ctr("images", "push", "--plain-http", target)
        finally:
            containerd.stop()

    def session(self, image):
        work = self.lab.work
        socket = os.path.join(work, "snapshotter.sock")
        daemon = Daemon(
            "stargz",
            [PROGRAM, "-address", socket, "-root", os.path.join(work, "stargz"),
             "-registry", self.lab.registry.name],
            os.path.join(work, "stargz.log"),
            lambda: answers(socket),
        )  # fmt: skip
        pull = ["ctr-remote", "images", "rpull", "--plain-http"]
        return ContainerdSession(self, image, "stargz", pull, daemon)
