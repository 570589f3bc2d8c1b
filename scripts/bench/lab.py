"""What every mode works with: directories, the registry behind its proxy, keys, kept variants."""

import glob
import hashlib
import json
import os
import shutil

from .images import Kitchen
from .process import run, unmount_below


class Lab:
    """Everything that is there for the whole run."""

    def __init__(self, cache, options, registry, proxy, say):
        self.cache = cache
        self.options = options
        self.registry = registry
        self.proxy = proxy
        self.say = say
        self.kitchen = Kitchen(cache, say)
        # Short: paths of Unix sockets have 107 bytes.
        self.work = os.path.join(cache, "work")
        self.nacre = options.nacre
        self.empty()
        self.keys = Keys(os.path.join(cache, "keys"), self.nacre)

    def empty(self):
        """An empty work directory, whatever an earlier round left."""
        if os.path.isdir(self.work):
            unmount_below(self.work)
            run("rm", "-rf", "--one-file-system", self.work)
        os.makedirs(self.work)

    def keep_logs(self, target):
        """Copies what the daemons of a round that failed have said; gives where, if anything."""
        logs = [*glob.glob(f"{self.work}/*.log"), *glob.glob(f"{self.work}/c/log")]
        shutil.rmtree(target, ignore_errors=True)
        for path in logs:
            name = os.path.relpath(path, self.work).replace("c/log", "containerd.log")
            os.makedirs(target, exist_ok=True)
            shutil.copyfile(path, os.path.join(target, name))
        return target if logs else None

    def cold(self, programs, repository=None, tag=None):
        """As a machine that runs containers but has not seen the image: caches dropped, programs
        and the registry's blobs of an image read."""
        run("sync")
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("3")
        for program in ["containerd", "containerd-shim-runc-v2", "ctr", "runc", *programs]:
            run("cat", shutil.which(program) or program)
        if repository:
            self.registry.read_ahead(repository, tag)

    def kept(self, repository, tag, recipe, make):
        """Has a variant made by `make` unless one of this recipe is there."""
        name = f"{repository}:{tag}"
        key = hashlib.sha256(recipe.encode()).hexdigest()
        if self._known().get(name) == key and self.registry.manifest(repository, tag):
            return
        self.say(f"making {name} ({recipe})")
        self.empty()
        make()
        # One variant may be made of another: that one is known by now.
        self._remember({**self._known(), name: key})

    def forget(self, variants):
        """Removes variants, and what they alone need of the disk."""
        if not variants:
            return
        known = self._known()
        for repository, tag in variants:
            self.registry.remove(repository, tag)
            known.pop(f"{repository}:{tag}", None)
        self._remember(known)
        self.registry.sweep()

    def _remember(self, known):
        path = self._variants()
        with open(path + ".partial", "w", encoding="utf-8") as file:
            json.dump(known, file, indent=1)
        os.rename(path + ".partial", path)

    def _variants(self):
        return os.path.join(self.cache, "variants.json")

    def _known(self):
        if not os.path.exists(self._variants()):
            return {}
        with open(self._variants(), encoding="utf-8") as file:
            return json.load(file)


class Keys:
    """Keys to encrypt and to sign with, made once."""

    def __init__(self, directory, nacre):
        self.private = os.path.join(directory, "decrypt.pem")
        self.public = os.path.join(directory, "encrypt.pem")
        self.signing = os.path.join(directory, "sign.key")
        self.verifying = os.path.join(directory, "sign.pub")
        os.makedirs(directory, mode=0o700, exist_ok=True)
        if not os.path.exists(self.public):
            run("openssl", "genrsa", "-out", self.private, "3072")
            run("openssl", "rsa", "-in", self.private, "-pubout", "-out", self.public)
        if not os.path.exists(self.verifying):
            run(nacre, "image", "keygen", self.verifying.removesuffix(".pub"))
