"""containerd with a root, state and socket of its own, and containers run through its `ctr`."""

import os
import subprocess
import threading
import time

from .images import ENVIRONMENT
from .process import Daemon, Failed, answers, run

CONFIG = """\
version = 2
root = "{at}/root"
state = "{at}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
address = "{at}/s"
[ttrpc]
address = "{at}/t"
"""

PLUGIN = """\
[proxy_plugins.{name}]
type = "snapshot"
address = "{socket}"
"""

# How long a workload may take to its line.
PATIENCE_S = 1200


class Containerd:
    """A running containerd."""

    def __init__(self, directory, plugins, more=""):
        os.makedirs(directory, exist_ok=True)
        self.socket = os.path.join(directory, "s")
        text = CONFIG.format(at=directory) + more
        for name, socket in plugins.items():
            text += PLUGIN.format(name=name, socket=socket)
        config = os.path.join(directory, "config.toml")
        with open(config, "w", encoding="utf-8") as file:
            file.write(text)
        self.daemon = Daemon(
            "containerd",
            ["containerd", "--config", config],
            os.path.join(directory, "log"),
            self._ready,
        )

    def ctr(self, *arguments, client="ctr", env=None):
        """Runs a client to its end."""
        return run(client, "--address", self.socket, *arguments, env=env)

    def start(self, name, image, *root):
        """Runs an image's command in a container; gives when its line came. `root`: what says to
        `ctr run` where the root file system is."""
        base = ["ctr", "--address", self.socket]
        command = base + ["run", "--rm", "--net-host", *root, name, *image.command]
        kill = base + ["tasks", "kill", "--signal", "SIGKILL", name]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        timer = threading.Timer(PATIENCE_S, process.kill)
        timer.start()
        try:
            said, at = [], None
            for line in process.stdout:
                said.append(line)
                if image.ready in line:
                    at = time.monotonic()
                    break
            if at and image.serves:
                # It may be gone already; then the next line says how.
                subprocess.run(
                    kill, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
                )
            said += process.stdout.readlines()
            code = process.wait()
        finally:
            timer.cancel()
        if at is None or (code != 0 and not image.serves):
            raise Failed(f"container {name}: exit code {code}: {''.join(said)[-800:].strip()}")
        return at

    def start_in(self, name, image, root):
        """The same in a directory, which has no configuration to take the environment from."""
        environment = [word for value in ENVIRONMENT for word in ("--env", value)]
        return self.start(name, image, *environment, "--rootfs", root)

    def stop(self):
        """Ends it."""
        self.daemon.stop()

    def _ready(self):
        with open(self.daemon_log(), encoding="utf-8", errors="replace") as log:
            return "containerd successfully booted" in log.read() and answers(self.socket)

    def daemon_log(self):
        """Where it logs."""
        return os.path.join(os.path.dirname(self.socket), "log")
