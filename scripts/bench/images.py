"""The image set: what is in each, what runs in it, and the line that says it is ready. Made once
from Debian, PyPI and npm packages, and kept."""

import base64
import json
import os
import random
import shutil
import tarfile

from . import layers, trees
from .process import run

ENVIRONMENT = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"]

# Pinned, so that figures of different days are of the same image.
PYTHON_PACKAGES = ["numpy==2.4.6", "scipy==1.17.1", "pandas==3.1.1", "scikit-learn==1.9.1"]
NODE_PACKAGES = {
    "express": "4.21.2",
    "fastify": "4.29.0",
    "lodash": "4.17.21",
    "rxjs": "7.8.1",
    "axios": "1.7.9",
    "moment": "2.30.1",
    "winston": "3.17.0",
    "graphql": "16.10.0",
    "pg": "8.13.1",
    "typescript": "5.7.2",
}

PYTHON_START = """\
import numpy, pandas, scipy.optimize, scipy.stats, sklearn.ensemble, sklearn.linear_model

x = numpy.random.default_rng(1).normal(size=(200, 4))
y = x.sum(axis=1) > 0
frame = pandas.DataFrame(x, columns=list("abcd")).assign(y=y)
model = sklearn.linear_model.LogisticRegression().fit(frame[list("abcd")], frame.y)
forest = sklearn.ensemble.RandomForestClassifier(n_estimators=4).fit(x, y)
root = scipy.optimize.brentq(lambda v: scipy.stats.norm.cdf(v) - 0.9, 0, 5)
print("ready", round(model.score(frame[list("abcd")], frame.y), 2), round(root, 2), flush=True)
"""

NODE_START = """\
const parts = %s.map((name) => require(name));
const app = require('express')();
app.get('/', (_, answer) => answer.send(String(parts.length)));
app.listen(0, '127.0.0.1', () => console.log('ready', parts.length));
"""

MODEL = "model-"
SMALL_FILES = 50_000
# One in so many of them is read.
SMALL_STRIDE = 250
POSTGRES = "/usr/lib/postgresql/15/bin"
POSTGRES_DATA = "/var/lib/postgresql/bench"


class Image:
    """One image: its layers from the lowest up, its command, and what its first line has in it."""

    def __init__(self, name, layer_names, command, ready="ready", serves=False):
        self.name = name
        self.layer_names = layer_names
        self.command = command
        self.ready = ready
        # Goes on after its line, until it is killed.
        self.serves = serves
        # Models of different sizes are different images.
        self.repository = layer_names[-1] if name == "model" else name


def catalogue(model_mib):
    """All images by name."""
    start = ["/bin/sh", "-c"]
    as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
    model = f"{MODEL}{model_mib}"
    found = [
        Image("base", ["base"], start + ["echo ready"]),
        Image("python-ml", ["base", "python", "ml"], ["python3", "/app/start.py"]),
        Image("node-app", ["base", "node", "app"], ["node", "/app/start.js"], serves=True),
        Image(
            "many-small", ["base", "small"], start + ["cat $(cat /data/list) | wc -c; echo ready"]
        ),
        Image(
            "postgres",
            ["base", "postgres"],
            as_postgres + [f"{POSTGRES}/postgres", "-D", POSTGRES_DATA],
            "database system is ready to accept connections",
            serves=True,
        ),
        Image(
            "model",
            ["base", model],
            start + ["dd if=/model/weights.bin of=/dev/null bs=1M 2>&1; echo ready"],
        ),
    ]
    return {image.name: image for image in found}


class Kitchen:
    """Makes images in a cache directory."""

    def __init__(self, directory, say):
        self.directory = directory
        self.say = say

    def layout(self, image):
        """The OCI layout of an image, made if need be; gives its directory and manifest digest."""
        packed = [self._layer(name, image.layer_names[:at]) for at, name in
                  enumerate(image.layer_names)]  # fmt: skip
        target = os.path.join(self.directory, "layouts", image.layer_names[-1])
        digest = layers.write_layout(target, packed, image.command, ENVIRONMENT)
        return target, digest

    def trees(self, image):
        """The trees of an image's layers, from the lowest up."""
        self.layout(image)
        return [os.path.join(self.directory, "layers", name, "tree") for name in image.layer_names]

    def _layer(self, name, below):
        directory = os.path.join(self.directory, "layers", name)
        packed = os.path.join(directory, "layer.tar.gz")
        about = os.path.join(directory, "layer.json")
        if not os.path.exists(about):
            self.say(f"making layer {name}")
            trees.remove(directory)
            os.makedirs(directory)
            if name.startswith(MODEL):
                # Gigabytes, and nothing lies on them: they never become a tree. Nothing repeats in
                # them, so a higher level would only look longer.
                mib = int(name.removeprefix(MODEL))
                described = layers.pack(packed, lambda archive: model(archive, mib), level=1)
            else:
                tree = os.path.join(directory, "tree")
                self._make(
                    name, [os.path.join(self.directory, "layers", it, "tree") for it in below], tree
                )
                described = layers.pack(packed, lambda archive: layers.add_tree(archive, tree))
            with open(about + ".partial", "w", encoding="ascii") as file:
                json.dump(described, file)
            os.rename(about + ".partial", about)
        with open(about, encoding="ascii") as file:
            return packed, json.load(file)

    def _make(self, name, below, tree):
        if not below:
            trees.bootstrap(tree)
            return
        with trees.on_top(below, tree) as root:
            {
                "python": lambda: trees.install(root, "python3"),
                "ml": lambda: python_packages(root),
                "node": lambda: trees.install(root, "nodejs"),
                "app": lambda: node_packages(root),
                "small": lambda: small_files(root),
                "postgres": lambda: postgres(root),
            }[name]()


def python_packages(root):
    """NumPy and its friends, for the Python that the image has, compiled as pip does."""
    target = "usr/local/lib/python3.11/dist-packages"
    run(
        "/usr/bin/python3", "-m", "pip", "install", "--quiet", "--no-compile",
        "--disable-pip-version-check", "--only-binary=:all:", "--python-version=3.11",
        "--implementation=cp", "--target", os.path.join(root, target), *PYTHON_PACKAGES,
    )  # fmt: skip
    os.makedirs(os.path.join(root, "app"))
    with open(os.path.join(root, "app/start.py"), "w", encoding="ascii") as file:
        file.write(PYTHON_START)
    with trees.alive(root):
        trees.inside(root, "python3", "-m", "compileall", "-q", "-j", "0", "/" + target)
        trees.inside(root, "python3", "/app/start.py")
    trees.tidy(root)


def node_packages(root):
    """Packages of npm, and a server that loads them all."""
    app = os.path.join(root, "app")
    os.makedirs(app)
    with open(os.path.join(app, "package.json"), "w", encoding="ascii") as file:
        json.dump({"name": "bench", "version": "1.0.0", "dependencies": NODE_PACKAGES}, file)
    run(
        "npm", "install", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund",
        "--no-update-notifier", "--loglevel=error", cwd=app,
    )  # fmt: skip
    with open(os.path.join(app, "start.js"), "w", encoding="ascii") as file:
        file.write(NODE_START % json.dumps(list(NODE_PACKAGES)))


def small_files(root):
    """Fifty thousand files of 100 to 4,000 bytes, and a list of those that a start reads."""
    source = random.Random(50_000)
    data = os.path.join(root, "data")
    chosen = []
    for number in range(SMALL_FILES):
        name = f"{number // 10_000}/{number // 100 % 100:02}/{number % 100:02}.txt"
        path = os.path.join(data, name)
        if number % 100 == 0:
            os.makedirs(os.path.dirname(path))
        with open(path, "wb") as file:
            file.write(base64.b64encode(source.randbytes(source.randint(75, 3000))))
        if number % SMALL_STRIDE == 0:
            chosen.append("/data/" + name)
    with open(os.path.join(data, "list"), "w", encoding="ascii") as file:
        file.write("\n".join(chosen) + "\n")


def postgres(root):
    """A database server with an empty database."""
    trees.install(root, "postgresql-15")
    with trees.alive(root):
        as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
        initdb = [f"{POSTGRES}/initdb", "-D", POSTGRES_DATA, "--locale=C.UTF-8", "--no-sync"]
        trees.inside(root, *as_user, *initdb)
    with open(root + POSTGRES_DATA + "/postgresql.conf", "a", encoding="ascii") as file:
        # No port of the host's network; and containers have a `/run` of their own, with nothing in it.
        file.write("\nlisten_addresses = ''\nunix_socket_directories = '/tmp'\n")
    shutil.rmtree(os.path.join(root, "var/lib/postgresql/15"), ignore_errors=True)


def model(archive, mib):
    """Adds one file of weights."""
    directory = tarfile.TarInfo("model")
    directory.type, directory.mode = tarfile.DIRTYPE, 0o755
    archive.addfile(directory)
    file = tarfile.TarInfo("model/weights.bin")
    file.size = mib << 20
    archive.addfile(file, Weights())


class Weights:
    """Bytes without end: each holds four random bits, so that they pack to little more than half."""

    def __init__(self):
        self.source = random.Random(4)
        self.low = bytes(value & 15 for value in range(256))

    def read(self, count):
        """What tarfile calls."""
        return self.source.randbytes(count).translate(self.low)
