"""What a mode is, and a session of one that goes through containerd."""

import os

from ..containerd import Containerd
from ..layers import blob_path, read_blob

# Tag of the ordinary image.
PLAIN = "plain"


class Mode:
    """One way to start an image."""

    name = ""
    # Tag of the variant that it pulls.
    tag = ""
    # Read before a cold start: they are in use anyway.
    programs = ()
    # Whether its daemon's memory is that of the mount, to be reported.
    has_daemon = True

    def __init__(self, lab):
        self.lab = lab

    def missing(self):
        """Why it cannot be measured here, or `None`."""
        return None

    def repository(self, image):
        """Where its variant is."""
        return f"bench/{image.repository}"

    def reference(self, image):
        """What it pulls, through the proxy."""
        return f"{self.lab.registry.name}/{self.repository(image)}:{self.tag}"

    def sources(self, image):
        """Variants (repository and tag) that its own is made of."""
        del image
        return []

    def variants(self, image):
        """All variants that it needs."""
        return [(self.repository(image), self.tag), *self.sources(image)]

    def recipe(self):
        """How its variant is made; another recipe is another variant."""
        raise NotImplementedError

    def make(self, image):
        """Makes its variant and pushes it."""
        raise NotImplementedError

    def session(self, image):
        """Starts what it needs, cold."""
        raise NotImplementedError

    def ready_variant(self, image):
        """Has the variant made, if it is not kept."""
        layout, digest = self.lab.kitchen.layout(image)
        del layout
        self.lab.kept(
            self.repository(image),
            self.tag,
            f"{self.recipe()} of {digest}",
            lambda: self.make(image),
        )

    def layout(self, image):
        """The ordinary image, as skopeo and nacre name it."""
        return f"oci:{self.lab.kitchen.layout(image)[0]}:latest"

    def push_plain(self, image):
        """Pushes the ordinary image; gives its name in the registry itself. Its blobs are one file
        in the layout and in the registry: some are large."""
        registry, repository = self.lab.registry, self.repository(image)
        registry.copy_in(self.layout(image), repository, PLAIN)
        layout, digest = self.lab.kitchen.layout(image)
        for layer in read_blob(layout, digest)["layers"]:
            registry.share(layer["digest"], blob_path(layout, layer["digest"]))
        return f"{registry.address}/{repository}:{PLAIN}"


class ContainerdSession:
    """A cold node: containerd, and a snapshotter beside it where the mode has one."""

    def __init__(self, mode, image, snapshotter, pull, daemon=None, more=""):
        self.lab = mode.lab
        self.image = image
        self.reference = mode.reference(image)
        self.snapshotter = snapshotter
        self.command = pull
        self.containerd = None
        self.daemon = daemon
        plugins = {}
        try:
            if daemon:
                plugins[snapshotter] = os.path.join(self.lab.work, "snapshotter.sock")
            self.containerd = Containerd(os.path.join(self.lab.work, "c"), plugins, more)
        except BaseException:
            self.stop()
            raise

    def pull(self):
        """Pulls the image, as far as this mode does."""
        client, *words = self.command
        self.containerd.ctr(
            *words, "--snapshotter", self.snapshotter, self.reference, client=client
        )

    def start(self, name):
        """Runs a container; gives when its line came."""
        options = ["--snapshotter", self.snapshotter, self.reference]
        return self.containerd.start(name, self.image, *options)

    def cpu_s(self):
        """CPU seconds of all daemons of the node so far."""
        daemons = [self.containerd.daemon, *([self.daemon] if self.daemon else [])]
        return sum(daemon.cpu_s() for daemon in daemons)

    def rss_bytes(self):
        """Peak memory of the snapshotter."""
        return self.daemon.memory("VmHWM") if self.daemon else None

    def stop(self):
        """Ends what it started."""
        if self.containerd:
            self.containerd.stop()
        if self.daemon:
            self.daemon.stop()
