"""containerd's own way: every layer downloaded and unpacked, then overlayfs. Encrypted: decrypted
on the way by imgcrypt's stream processor."""

import os
import shutil

from .mode import PLAIN, ContainerdSession, Mode

PROCESSOR = """\
[stream_processors."io.containerd.ocicrypt.decoder.v1.tar.gzip"]
accepts = ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted"]
returns = "application/vnd.oci.image.layer.v1.tar+gzip"
path = "{program}"
args = ["decode", "{key}"]
"""


class Overlayfs(Mode):
    """Full pull, unpack, overlayfs."""

    def __init__(self, lab, encrypted=False):
        super().__init__(lab)
        self.encrypted = encrypted
        self.name = "overlayfs-encrypted" if encrypted else "overlayfs"
        self.tag = "encrypted" if encrypted else PLAIN
        self.programs = ["bench-imgcrypt"] if encrypted else []

    def missing(self):
        if self.encrypted and not shutil.which("bench-imgcrypt"):
            return "imgcrypt (Go module) could not be built"
        return None

    def recipe(self):
        return "skopeo, jwe" if self.encrypted else "skopeo"

    def make(self, image):
        if not self.encrypted:
            self.push_plain(image)
            return
        key = f"jwe:{self.lab.keys.public}"
        self.lab.registry.copy_in(
            self.layout(image), self.repository(image), self.tag, "--encryption-key", key
        )

    def session(self, image):
        if not self.encrypted:
            pull = ["ctr", "images", "pull", "--plain-http"]
            return ContainerdSession(self, image, "overlayfs", pull)
        program = os.path.realpath(shutil.which("bench-imgcrypt"))
        more = PROCESSOR.format(program=program, key=self.lab.keys.private)
        pull = ["bench-imgcrypt", "pull", "--key", self.lab.keys.private]
        return ContainerdSession(self, image, "overlayfs", pull, more=more)
