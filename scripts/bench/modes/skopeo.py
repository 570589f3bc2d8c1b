"""The eager decrypting way outside containerd: skopeo copies and decrypts, umoci unpacks. image-rs,
the guest's way, is not published as a crate; it does the same work."""

import shutil

from ..containerd import Containerd
from ..process import Usage
from .mode import Mode


class Skopeo(Mode):
    """skopeo copy --decryption-key, umoci unpack."""

    name = "skopeo"
    tag = "encrypted"
    programs = ("skopeo", "umoci")
    has_daemon = False

    def missing(self):
        for program in self.programs:
            if not shutil.which(program):
                return f"{program} is not installed"
        return None

    def recipe(self):
        return "skopeo, jwe"

    def make(self, image):
        key = f"jwe:{self.lab.keys.public}"
        self.lab.registry.copy_in(
            self.layout(image), self.repository(image), self.tag, "--encryption-key", key
        )

    def session(self, image):
        return Session(self, image)


class Session:
    """containerd for running; the rest by the tools."""

    def __init__(self, mode, image):
        self.mode = mode
        self.image = image
        self.lab = mode.lab
        self.usage = Usage()
        self.containerd = Containerd(f"{self.lab.work}/c", {})

    def pull(self):
        """Copies, decrypts, unpacks."""
        work = self.lab.work
        self.usage.run(
            "skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false",
            "--decryption-key", self.lab.keys.private,
            f"docker://{self.mode.reference(self.image)}", f"oci:{work}/copy:latest",
        )  # fmt: skip
        self.usage.run("umoci", "unpack", "--image", f"{work}/copy:latest", f"{work}/bundle")

    def start(self, name):
        """Runs a container in the unpacked tree itself."""
        root = f"{self.lab.work}/bundle/rootfs"
        return self.containerd.start_in(name, self.image, root)

    def cpu_s(self):
        """CPU seconds of containerd and the tools."""
        return self.containerd.daemon.cpu_s() + self.usage.cpu_s

    def rss_bytes(self):
        """There is no daemon."""
        return None

    def stop(self):
        """Ends what it started."""
        self.containerd.stop()
