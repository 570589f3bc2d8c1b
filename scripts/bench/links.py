"""Links: the proxy in front of the registry (examples/link_proxy) and what it is told."""

import json
import subprocess

from .process import Failed

# Bytes a second each way (0: no limit), microseconds each way.
LINKS = {
    "loopback": (0, 0),
    "1gbit": (125_000_000, 0),
    "100mbit": (12_500_000, 0),
    "20ms": (0, 10_000),
    "80ms": (0, 40_000),
}


class Proxy:
    """The proxy, told what to do over its standard input."""

    def __init__(self, program, listen, upstream):
        self.process = subprocess.Popen(
            [program, "serve", listen, upstream],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._answer("start")

    def set(self, link):
        """Makes it that link, for connections from now on."""
        rate, delay = LINKS[link]
        self._ask(f"link {rate} {delay}")

    def reset(self):
        """Forgets what was counted."""
        self._ask("reset")

    def counters(self):
        """What was counted since."""
        return self._ask("counters")

    def log(self):
        """Every request since."""
        return self._ask("log")

    def stop(self):
        """It ends with its input."""
        self.process.stdin.close()
        self.process.wait()

    def _ask(self, command):
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._answer(command)

    def _answer(self, command):
        line = self.process.stdout.readline()
        if not line:
            raise Failed(f"link proxy ended at {command!r}")
        return json.loads(line)


def limits(program):
    """What the proxy itself can carry, and what it adds to a request."""
    done = subprocess.run([program, "measure"], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)
