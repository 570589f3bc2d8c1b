"""nydus: RAFS v6 over FUSE, one merged mount an image. nydusd is started by the harness itself,
without nydus' containerd snapshotter: that is its best case."""

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import urllib.request

from ..containerd import Containerd
from ..layers import MANIFEST, blob_path, file_digest, read_blob
from ..process import Daemon, Failed, run
from .mode import Mode

BLOB = "application/vnd.oci.image.layer.nydus.blob.v1"
BOOTSTRAP = "application/vnd.oci.image.layer.v1.tar+gzip"
CONFIG = "application/vnd.oci.image.config.v1+json"


class Nydus(Mode):
    """nydusd with its registry backend and blob cache."""

    tag = "nydus"
    programs = ("nydusd",)

    def __init__(self, lab, prefetch=False):
        super().__init__(lab)
        self.prefetch = prefetch
        self.name = "nydus-prefetch" if prefetch else "nydus"

    def missing(self):
        if not shutil.which("nydusd") or not shutil.which("nydus-image"):
            return "nydusd and nydus-image (crate nydus-rs) could not be built"
        return None

    def recipe(self):
        return "nydus-image create targz-rafs v6 zstd, merge of blobs by digest"

    def make(self, image):
        work, registry, repository = self.lab.work, self.lab.registry, self.repository(image)
        bootstraps, blob_layers = [], []
        layout, digest = self.lab.kitchen.layout(image)
        manifest = read_blob(layout, digest)
        for number, layer in enumerate(manifest["layers"]):
            bootstrap, blobs = f"{work}/{number}.boot", f"{work}/{number}.blobs"
            os.mkdir(blobs)
            run(
                "nydus-image", "create", "--type", "targz-rafs", "--fs-version", "6",
                "--compressor", "zstd", "--blob-dir", blobs, "--bootstrap", bootstrap,
                blob_path(layout, layer["digest"]),
            )  # fmt: skip
            # One blob, or none if the layer has no data. Merging takes its name from its bootstrap's.
            for name in os.listdir(blobs):
                pushed = self._push(repository, f"{blobs}/{name}", BLOB)
                blob_layers += [pushed] if pushed not in blob_layers else []
                os.unlink(f"{blobs}/{name}")
                os.rename(bootstrap, f"{work}/{name}.boot")
                bootstrap = f"{work}/{name}.boot"
            bootstraps.append(bootstrap)
        merged = f"{work}/merged.boot"
        run("nydus-image", "merge", "--bootstrap", merged, *bootstraps)
        packed = f"{work}/bootstrap.tar.gz"
        with tarfile.open(packed, "w:gz", format=tarfile.PAX_FORMAT) as archive:
            archive.add(merged, "image/image.boot")
        layers = [*blob_layers, self._push(repository, packed, BOOTSTRAP)]
        config = f"{work}/config.json"
        with open(config, "w", encoding="ascii") as file:
            file.write("{}")
        registry.push_manifest(
            repository,
            self.tag,
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": self._push(repository, config, CONFIG),
                "layers": layers,
            },
        )

    def _push(self, repository, path, media_type):
        digest = "sha256:" + file_digest(path)
        self.lab.registry.push_blob(repository, digest, path)
        return {"mediaType": media_type, "digest": digest, "size": os.path.getsize(path)}

    def session(self, image):
        return Session(self, image)


class Session:
    """containerd for running; nydusd from the pull on."""

    def __init__(self, mode, image):
        self.mode = mode
        self.image = image
        self.lab = mode.lab
        self.daemon = None
        self.containerd = Containerd(f"{self.lab.work}/c", {})

    def pull(self):
        """Fetches manifest and bootstrap, as the snapshotter does, and mounts."""
        work, repository = self.lab.work, self.mode.repository(self.image)
        base = f"http://{self.lab.registry.name}/v2/{repository}"
        accept = {"Accept": MANIFEST}
        request = urllib.request.Request(f"{base}/manifests/{self.mode.tag}", headers=accept)
        manifest = json.loads(fetch(request))
        layer = manifest["layers"][-1]
        packed = fetch(f"{base}/blobs/{layer['digest']}")
        if "sha256:" + hashlib.sha256(packed).hexdigest() != layer["digest"]:
            raise Failed("nydus: the bootstrap is not what its digest says")
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed))) as archive:
            boot = archive.extractfile("image/image.boot").read()
        with open(f"{work}/boot", "wb") as file:
            file.write(boot)
        os.makedirs(f"{work}/cache")
        os.makedirs(f"{work}/lower")
        with open(f"{work}/nydusd.json", "w", encoding="ascii") as file:
            json.dump(self._config(repository), file)
        self.daemon = Daemon(
            "nydusd",
            ["nydusd", "--rlimit-nofile", "0", "--config", f"{work}/nydusd.json", "--mountpoint", f"{work}/lower",
             "--bootstrap", f"{work}/boot", "--log-level", "warn"],
            f"{work}/nydusd.log",
            lambda: os.path.ismount(f"{work}/lower"),
        )  # fmt: skip

    def _config(self, repository):
        return {
            "device": {
                "backend": {
                    "type": "registry",
                    "config": {
                        "scheme": "http",
                        "host": self.lab.registry.name,
                        "repo": repository,
                        "timeout": 60,
                        "connect_timeout": 10,
                        "retry_limit": 2,
                    },
                },
                "cache": {"type": "blobcache", "config": {"work_dir": f"{self.lab.work}/cache"}},
            },
            "mode": "direct",
            "digest_validate": False,
            "iostats_files": False,
            "enable_xattr": True,
            "fs_prefetch": {
                "enable": self.mode.prefetch,
                "prefetch_all": self.mode.prefetch,
                "threads_count": 8,
                "merging_size": 1 << 20,
            },
        }

    def start(self, name):
        """Runs a container on an overlay of its own."""
        root = overlay(f"{self.lab.work}/{name}", f"{self.lab.work}/lower")
        return self.containerd.start_in(name, self.image, root)

    def cpu_s(self):
        """CPU seconds of the daemons."""
        daemons = [self.containerd.daemon, *([self.daemon] if self.daemon else [])]
        return sum(daemon.cpu_s() for daemon in daemons)

    def rss_bytes(self):
        """Peak memory of nydusd."""
        return self.daemon.memory("VmHWM")

    def stop(self):
        """Ends what it started."""
        self.containerd.stop()
        if self.daemon:
            self.daemon.stop()


def overlay(directory, lower):
    """A writable overlay over a directory, as a snapshotter would make it."""
    for name in ("upper", "work", "root"):
        os.makedirs(f"{directory}/{name}")
    options = f"lowerdir={lower},upperdir={directory}/upper,workdir={directory}/work"
    run("mount", "-t", "overlay", "overlay", f"{directory}/root", "-o", options)
    return f"{directory}/root"


def fetch(request):
    """The body of an answer."""
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        return answer.read()
