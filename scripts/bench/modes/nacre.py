"""nacre: `nacre serve` as containerd's snapshotter. Every variant is signed, and admitted by a
policy that wants the signature; encrypted ones are encrypted by skopeo."""

import json
import os
import shutil

from ..process import Daemon, answers, run
from .mode import ContainerdSession, Mode

CONFIG = """\
root = "{work}/nacre"
socket = "{work}/snapshotter.sock"
[trust]
policy = "{work}/policy.json"
[keys]
decryption_keys = [{key}]
{more}
"""


class Nacre(Mode):
    """Signed, perhaps encrypted, perhaps with a profile."""

    def __init__(self, lab, encrypted=False, profile=False):
        super().__init__(lab)
        self.encrypted = encrypted
        self.profile = profile
        self.name = "nacre" + "-encrypted" * encrypted + "-profile" * profile
        self.tag = "nacre-" + lab.options.nacre_format + "-encrypted" * encrypted
        self.programs = [lab.nacre, "ctr-remote"]

    def missing(self):
        if not shutil.which("ctr-remote"):
            return "ctr-remote (Debian package stargz-snapshotter) is not installed"
        if self.profile:
            offered = run(self.lab.nacre, "image", "--help")
            if not any(line.split()[:1] == ["profile"] for line in offered.splitlines()):
                return "this nacre has no `image profile`"
        return None

    def repository(self, image):
        # A profile is found by the manifest's digest: without one means another repository.
        return super().repository(image) + "-profile" * self.profile

    def sources(self, image):
        other = self._source()
        return other.variants(image) if other else []

    def recipe(self):
        options = self.lab.options
        chunk = f" --chunk-kib {options.nacre_chunk_kib}" if options.nacre_chunk_kib else ""
        parts = [f"nacre convert --format {options.nacre_format}{chunk}"]
        parts += ["skopeo, jwe"] * self.encrypted + ["signed"] + ["profile"] * self.profile
        return ", ".join(parts)

    def make(self, image):
        lab = self.lab
        encrypt = []
        if self.encrypted and not self.profile:
            encrypt = ["--encryption-key", f"jwe:{lab.keys.public}"]
        other = self._source()
        source = self._in_registry(image, other) if other else self._convert(image)
        lab.registry.copy_in(source, self.repository(image), self.tag, *encrypt)
        # Under the name that it is pulled by: the signature says it.
        lab.proxy.set("loopback")
        run(lab.nacre, "image", "sign", "--key", lab.keys.signing, self.reference(image))
        if self.profile:
            self._make_profile(image)

    def _source(self):
        """The mode whose variant this one's is made of: with a profile it is the same image in
        another repository."""
        if self.profile:
            return Nacre(self.lab, encrypted=self.encrypted)
        return Nacre(self.lab) if self.encrypted else None

    def _in_registry(self, image, other):
        """The variant of another mode, made if need be."""
        other.ready_variant(image)
        return f"docker://{self.lab.registry.address}/{other.repository(image)}:{other.tag}"

    def _convert(self, image):
        options, lazy = self.lab.options, f"oci:{self.lab.work}/lazy:latest"
        convert = ["image", "convert", self.layout(image), lazy, "--format", options.nacre_format]
        if options.nacre_chunk_kib:
            convert += ["--chunk-kib", options.nacre_chunk_kib]
        run(self.lab.nacre, *convert)
        return lazy

    def _make_profile(self, image):
        """Records what the workload reads, and attaches that to the image."""
        self._write_policy()
        opening = ["--policy", f"{self.lab.work}/policy.json"]
        opening += ["--decryption-key", self.lab.keys.private] if self.encrypted else []
        profile = [self.lab.nacre, "image", "profile"]
        file, until = f"{self.lab.work}/profile", ["--until", image.ready] if image.serves else []
        reference = self.reference(image)
        # Only standard output is looked at for the line.
        command = ["/bin/sh", "-c", 'exec "$@" 2>&1', "sh", *image.command]
        run(*profile, "record", reference, *opening, "--output", file, *until, "--", *command)
        run(*profile, "push", reference, *opening, "--profile", file)

    def session(self, image):
        work = self.lab.work
        self._write_policy()
        more = self.lab.options.nacre_config or ""
        config = CONFIG.format(work=work, key=json.dumps(self.lab.keys.private), more=more)
        with open(f"{work}/nacre.toml", "w", encoding="utf-8") as file:
            file.write(config)
        socket = f"{work}/snapshotter.sock"
        daemon = Daemon(
            "nacre",
            [self.lab.nacre, "serve", "--config", f"{work}/nacre.toml"],
            f"{work}/nacre.log",
            lambda: answers(socket),
        )
        pull = ["ctr-remote", "images", "rpull", "--plain-http"]
        return ContainerdSession(self, image, "nacre", pull, daemon)

    def _write_policy(self):
        rule = {
            "type": "sigstoreSigned",
            "keyPath": self.lab.keys.verifying,
            "signedIdentity": {"type": "matchRepository"},
        }
        transports = {"docker": {f"{self.lab.registry.name}/bench": [rule]}}
        with open(os.path.join(self.lab.work, "policy.json"), "w", encoding="utf-8") as file:
            json.dump({"default": [{"type": "reject"}], "transports": transports}, file)
