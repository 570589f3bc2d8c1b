"""Processes: run to their end, or started, found ready, counted and ended."""

import os
import resource
import signal
import socket
import subprocess
import time

TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """Something that was tried did not work; the text says what."""


def run(*command, env=None, cwd=None, stdin=None):
    """Runs a command to its end and gives what it printed."""
    command = [str(word) for word in command]
    try:
        done = subprocess.run(
            command,
            env=env and {**os.environ, **env},
            cwd=cwd,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise Failed(f"{command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-800:]
        raise Failed(f"{' '.join(command[:4])} ...: exit code {done.returncode}: {said}")
    return done.stdout


def poll(done, what, seconds=60):
    """Waits until `done()` is true; asks every 2 ms."""
    limit = time.monotonic() + seconds
    while not done():
        if time.monotonic() > limit:
            raise Failed(f"{what}: not after {seconds} s")
        time.sleep(0.002)


def answers(path):
    """Whether somebody accepts connections on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
    return True


class Usage:
    """CPU seconds and peak memory of processes that are run to their end within it."""

    def __init__(self):
        self.cpu_s = 0.0
        self.rss_bytes = 0

    def run(self, *command):
        """Runs a command; its children count if it waits for them."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        output = run(*command)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu_s += after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return output


class Daemon:
    """A process that serves until it is stopped."""

    def __init__(self, name, command, log, ready, env=None, seconds=60):
        self.name = name
        self.log = log
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env and {**os.environ, **env},
            )

        def done():
            if self.process.poll() is not None:
                raise Failed(f"{name} ended: {self.tail()}")
            return ready()

        try:
            poll(done, f"{name} to be ready", seconds)
        except Failed:
            self.stop()
            raise

    def tail(self):
        """The last that it said."""
        with open(self.log, "rb") as log:
            return log.read()[-800:].decode(errors="replace").strip()

    def cpu_s(self):
        """CPU seconds so far, those of children that it waited for included."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        return sum(int(field) for field in fields[11:15]) / TICKS

    def memory(self, key):
        """A line of its memory status, in bytes."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith(key + ":"):
                    return int(line.split()[1]) * 1024
        raise Failed(f"{self.name}: no {key}")

    def stop(self):
        """Asks it to end; kills it after a while."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def unmount_below(directory):
    """Takes away every mount below a directory, the last first."""
    directory = os.path.realpath(directory)
    for _ in range(4):
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as table:
            points = [line.split()[4].encode().decode("unicode_escape") for line in table]
        below = [point for point in points if point.startswith(directory + "/")]
        if not below:
            return
        for point in reversed(below):
            subprocess.run(["umount", "--lazy", point], stderr=subprocess.DEVNULL, check=False)
    raise Failed(f"mounts below {directory} do not go")
