"""The registry that everything is pulled from: Debian's docker-registry, on loopback."""

import http.client
import json
import os

from .process import Daemon, Failed, run

MANIFESTS = ", ".join(
    [
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
    ]
)

CONFIG = """\
version: 0.1
log:
  level: warn
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: {data}
  delete:
    enabled: true
http:
  addr: {address}
"""

# It would look for somebody to report to.
QUIET = {"OTEL_TRACES_EXPORTER": "none"}


class Registry:
    """A running registry. Clients that are measured reach it through the proxy, under `name`."""

    def __init__(self, directory, address, name):
        os.makedirs(directory, exist_ok=True)
        self.data = os.path.join(directory, "data")
        self.address = address
        self.name = name
        self.config = os.path.join(directory, "config.yml")
        with open(self.config, "w", encoding="utf-8") as file:
            file.write(CONFIG.format(data=self.data, address=address))
        self.daemon = Daemon(
            "docker-registry",
            ["docker-registry", "serve", self.config],
            os.path.join(directory, "log"),
            self._serves,
            env=QUIET,
        )

    def stop(self):
        """Ends it."""
        self.daemon.stop()

    def manifest(self, repository, reference):
        """A manifest, its digest; `None` if there is none."""
        status, headers, body = self._get(f"/v2/{repository}/manifests/{reference}")
        if status == 404:
            return None
        if status != 200:
            raise Failed(f"registry: manifest {repository}:{reference}: status {status}")
        return json.loads(body), headers["Docker-Content-Digest"]

    def push_blob(self, repository, digest, path):
        """Puts a file there as a blob, if it is not there yet."""
        if self._request("HEAD", f"/v2/{repository}/blobs/{digest}")[0] == 200:
            return
        status, headers, _ = self._request("POST", f"/v2/{repository}/blobs/uploads/")
        if status != 202:
            raise Failed(f"registry: upload to {repository}: status {status}")
        target = headers["Location"].split(self.address, 1)[-1]
        target += ("&" if "?" in target else "?") + f"digest={digest}"
        with open(path, "rb") as file:
            status, _, body = self._request(
                "PUT", target, file, {"Content-Length": str(os.path.getsize(path))}
            )
        if status != 201:
            raise Failed(f"registry: blob {digest}: status {status}: {body[:200]!r}")

    def push_manifest(self, repository, tag, manifest):
        """Puts a manifest there under a tag."""
        body = json.dumps(manifest).encode()
        target = f"/v2/{repository}/manifests/{tag}"
        headers = {"Content-Type": manifest["mediaType"]}
        status, _, answer = self._request("PUT", target, body, headers)
        if status != 201:
            raise Failed(
                f"registry: manifest {repository}:{tag}: status {status}: {answer[:200]!r}"
            )

    def copy_in(self, source, repository, tag, *options):
        """Has skopeo copy an image of a layout (or of this registry) to a tag."""
        run(
            "skopeo", "--insecure-policy", "copy", "--quiet",
            "--src-tls-verify=false", "--dest-tls-verify=false", *options,
            source, f"docker://{self.address}/{repository}:{tag}",
        )  # fmt: skip

    def share(self, digest, path):
        """Has a blob that is there be one file with `path`, which has the same bytes."""
        own = self._blob(digest)
        if not os.path.samefile(own, path):
            os.link(path, own + ".shared")
            os.replace(own + ".shared", own)

    def remove(self, repository, tag):
        """Removes what a tag names, and the manifests of an index; `sweep` removes the blobs."""
        found = self.manifest(repository, tag)
        if not found:
            return
        manifest, digest = found
        digests = [digest] + [child["digest"] for child in manifest.get("manifests", [])]
        for one in digests:
            status, _, body = self._request("DELETE", f"/v2/{repository}/manifests/{one}")
            if status not in (202, 404):
                raise Failed(f"registry: delete {repository}@{one}: status {status}: {body[:200]!r}")

    def sweep(self):
        """Removes blobs that no manifest names. Nothing may be pushed meanwhile."""
        run("docker-registry", "garbage-collect", self.config, env=QUIET)

    def read_ahead(self, repository, tag):
        """Reads what a client of an image may ask for, so that it comes from memory: the registry
        stands for a remote host."""
        digests = set(self._blobs(repository, tag))
        blobs = os.path.join(self.data, "docker/registry/v2/blobs/sha256")
        total = 0
        for entry in os.scandir(blobs):
            for blob in os.scandir(entry.path):
                path = os.path.join(blob.path, "data")
                # Small ones are manifests, configurations, signatures.
                if "sha256:" + blob.name in digests or os.path.getsize(path) < 65536:
                    total += read(path)
        repositories = os.path.join(self.data, "docker/registry/v2/repositories", repository)
        for directory, _, files in os.walk(repositories):
            for name in files:
                read(os.path.join(directory, name))
        return total

    def _blob(self, digest):
        """Where it keeps a blob."""
        algorithm, _, name = digest.partition(":")
        blobs = os.path.join(self.data, "docker/registry/v2/blobs", algorithm)
        return os.path.join(blobs, name[:2], name, "data")

    def _blobs(self, repository, reference):
        """Digests of what a manifest names, or an index's manifests."""
        manifest, _ = self.manifest(repository, reference)
        for child in manifest.get("manifests", []):
            yield from self._blobs(repository, child["digest"])
        for blob in manifest.get("layers", []) + [manifest.get("config")]:
            if blob:
                yield blob["digest"]

    def _serves(self):
        try:
            return self._request("GET", "/v2/")[0] == 200
        except OSError:
            return False

    def _get(self, target):
        return self._request("GET", target, None, {"Accept": MANIFESTS})

    def _request(self, method, target, body=None, headers=None):
        connection = http.client.HTTPConnection(self.address, timeout=600)
        try:
            connection.request(method, target, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()


def read(path):
    """Reads a file for the sake of the page cache; gives its size."""
    total = 0
    buffer = bytearray(1 << 20)
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            total += count
    return total
