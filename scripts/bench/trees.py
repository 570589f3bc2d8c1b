"""File trees that layers are made of: a tree lies on those below it, and holds what it adds."""

import contextlib
import os
import shutil
import subprocess

from .process import run

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"


def bootstrap(tree):
    """A minimal Debian."""
    run("debootstrap", "--variant=minbase", SUITE, tree, MIRROR)
    tidy(tree)


@contextlib.contextmanager
def on_top(below, tree):
    """Shows `tree` on top of the trees below it; what is written goes to `tree`."""
    work = tree + ".work"
    root = tree + ".root"
    for directory in (tree, work, root):
        os.makedirs(directory, exist_ok=True)
    lower = ":".join(reversed(below))
    options = f"lowerdir={lower},upperdir={tree},workdir={work}"
    run("mount", "-t", "overlay", "overlay", root, "-o", options)
    try:
        yield root
    finally:
        run("umount", root)
        shutil.rmtree(work)
        os.rmdir(root)


@contextlib.contextmanager
def alive(root):
    """A root in which programs of Debian run, with this machine's name resolution."""
    mounts = [("/proc", "proc"), ("/dev", "dev")]
    mounts += [(f"/etc/{it}", f"etc/{it}") for it in ("hosts", "resolv.conf")]
    made, mounted = [], []
    try:
        for source, target in mounts:
            target = os.path.join(root, target)
            if not os.path.exists(target):
                open(target, "w", encoding="ascii").close()
                made.append(target)
            run("mount", "--bind", os.path.realpath(source), target)
            mounted.append(target)
        yield
    finally:
        for target in reversed(mounted):
            run("umount", target)
        for target in made:
            os.unlink(target)


def inside(root, *command):
    """Runs a program in a root."""
    return run(
        "chroot", root, "/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8", "HOME=/root", "DEBIAN_FRONTEND=noninteractive", *command,
    )  # fmt: skip


def install(root, *packages):
    """Installs Debian packages in a root, starting nothing."""
    policy = os.path.join(root, "usr/sbin/policy-rc.d")
    with open(policy, "w", encoding="ascii") as file:
        file.write("#!/bin/sh\nexit 101\n")
    os.chmod(policy, 0o755)
    with alive(root):
        inside(root, "apt-get", "update", "-qq")
        inside(root, "apt-get", "install", "-qq", "-y", "--no-install-recommends", *packages)
        inside(root, "apt-get", "clean")
    os.unlink(policy)
    tidy(root)


def tidy(root):
    """Removes what differs each time and no image needs."""
    for pattern in ("var/lib/apt/lists", "var/cache/apt", "var/log"):
        directory = os.path.join(root, pattern)
        for entry in os.scandir(directory) if os.path.isdir(directory) else ():
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)


def remove(tree):
    """Removes a tree that is nowhere mounted."""
    subprocess.run(["rm", "-rf", "--one-file-system", tree], check=True)
