"""What the figures were measured on."""

import glob
import os
import platform
import shutil
import subprocess


def describe(nacre):
    """Processor, memory, kernel, versions of what takes part."""
    return {
        "processor": field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": int(field("/proc/meminfo", "MemTotal").split()[0]) // 1024,
        "kernel": platform.release(),
        "versions": {
            "nacre": said(nacre, "--version"),
            "containerd": said("containerd", "--version"),
            "runc": said("runc", "--version"),
            "docker-registry": said("docker-registry", "--version"),
            "skopeo": said("skopeo", "--version"),
            "umoci": said("umoci", "--version"),
            "ctr-remote": said("ctr-remote", "--version"),
            "nydusd": said("nydusd", "--version"),
        },
        # containerd decompresses in another process if one of these is there.
        "unpigz": shutil.which("unpigz") is not None,
        "igzip": shutil.which("igzip") is not None,
        "reclaims_idle_memory": reclaims_idle_memory(),
    }


def reclaims_idle_memory():
    """Whether the kernel (DAMON) takes back memory that was idle for a while: then what a round has
    read beforehand may be gone before it is asked for."""
    switches = glob.glob("/sys/kernel/mm/damon/admin/kdamonds/*/state")
    switches += glob.glob("/sys/module/damon_reclaim/parameters/enabled")
    for switch in switches:
        with open(switch, encoding="ascii") as file:
            if file.read().strip() in ("on", "Y"):
                return True
    return False


def field(path, key):
    """A line `key: value` of a file of /proc."""
    with open(path, encoding="ascii", errors="replace") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def said(program, *arguments):
    """The first line that a program prints, or `None` if it is not there."""
    if not shutil.which(program):
        return None
    done = subprocess.run(
        [program, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout.strip().split("\n")[0]
