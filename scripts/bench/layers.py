"""Layers and layouts: a tree becomes a tar+gzip layer, layers become an OCI layout."""

import hashlib
import json
import os
import stat
import subprocess
import tarfile

from .process import Failed

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"


class Tee:
    """Writes to a pipe and hashes on the way."""

    def __init__(self, pipe):
        self.pipe = pipe
        self.hash = hashlib.sha256()

    def write(self, data):
        """What tarfile calls."""
        self.hash.update(data)
        return self.pipe.write(data)


def pack(target, fill, level=6):
    """Packs what `fill` adds to an archive as `target`; gives digest, size, diff id."""
    with open(target, "wb") as output:
        gzip = subprocess.Popen(["gzip", "-n", f"-{level}"], stdin=subprocess.PIPE, stdout=output)
        tee = Tee(gzip.stdin)
        with tarfile.open(fileobj=tee, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            fill(archive)
        gzip.stdin.close()
        if gzip.wait() != 0:
            raise Failed(f"gzip of {target}: exit code {gzip.returncode}")
    return {
        "digest": "sha256:" + file_digest(target),
        "size": os.path.getsize(target),
        "diff_id": "sha256:" + tee.hash.hexdigest(),
    }


def add_tree(archive, tree):
    """Adds everything below a tree (the upper directory of an overlay) in the order of names; whiteouts become `.wh.` files."""
    links = {}
    for directory, directories, files in os.walk(tree):
        directories.sort()
        for name in sorted(directories + files):
            path = os.path.join(directory, name)
            inside = os.path.relpath(path, tree)
            entry = archive.gettarinfo(path, inside)
            if entry is None:
                continue
            entry.mtime = int(entry.mtime)
            entry.uname = entry.gname = ""
            status = os.lstat(path)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                parent, base = os.path.split(inside)
                entry.name = os.path.join(parent, ".wh." + base)
                entry.type, entry.size, entry.mode = tarfile.REGTYPE, 0, 0
            # gettarinfo knows hard links only by the name as it was given.
            if entry.isreg() and status.st_nlink > 1:
                first = links.setdefault((status.st_dev, status.st_ino), inside)
                if first != inside:
                    entry.type, entry.linkname, entry.size = tarfile.LNKTYPE, first, 0
            if entry.isreg() and entry.size:
                with open(path, "rb") as file:
                    archive.addfile(entry, file)
            else:
                archive.addfile(entry)
            if entry.isdir() and opaque(path):
                whiteout = tarfile.TarInfo(os.path.join(inside, ".wh..wh..opq"))
                archive.addfile(whiteout)


def opaque(directory):
    """Whether a directory of an upper layer hides what lies below."""
    try:
        return os.getxattr(directory, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def file_digest(path):
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def blob_path(layout, digest):
    """Where a layout has a blob."""
    return os.path.join(layout, "blobs", digest.replace(":", "/"))


def read_blob(layout, digest):
    """A JSON blob of a layout."""
    with open(blob_path(layout, digest), encoding="utf-8") as file:
        return json.load(file)


def write_layout(directory, layers, command, env):
    """Writes an OCI layout with one image, tag `latest`. `layers`: (file, what `pack` gave)."""
    blobs = os.path.join(directory, "blobs/sha256")
    os.makedirs(blobs, exist_ok=True)

    def blob(media_type, value):
        data = json.dumps(value, sort_keys=True).encode()
        digest = hashlib.sha256(data).hexdigest()
        with open(os.path.join(blobs, digest), "wb") as file:
            file.write(data)
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(data)}

    for path, packed in layers:
        name = os.path.join(blobs, packed["digest"].removeprefix("sha256:"))
        if not os.path.exists(name):
            os.link(path, name)
    config = {
        "created": "2026-01-01T00:00:00Z",
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": env, "Cmd": command, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [packed["diff_id"] for _, packed in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": blob(IMAGE_CONFIG, config),
        "layers": [
            {"mediaType": LAYER, "digest": packed["digest"], "size": packed["size"]}
            for _, packed in layers
        ],
    }
    described = blob(MANIFEST, manifest)
    described["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    with open(os.path.join(directory, "oci-layout"), "w", encoding="ascii") as file:
        json.dump({"imageLayoutVersion": "1.0.0"}, file)
    with open(os.path.join(directory, "index.json"), "w", encoding="ascii") as file:
        json.dump({"schemaVersion": 2, "manifests": [described]}, file)
    return described["digest"]
