"""The floor: which pages of an image a start touches, with the kernel's readahead off, and what
they come to compressed. No lazy way can fetch less without knowing pages beforehand."""

import ctypes
import mmap
import os
import stat
import zlib

from .containerd import Containerd
from .measure import name
from .modes.nydus import overlay
from .process import run

PAGE = mmap.PAGESIZE
# Compressed a piece at a time, as chunks are.
PIECE = 1 << 20


def measure(lab, image):
    """Runs the image from an uncompressed EROFS image without readahead, then asks which pages of
    its files are in memory."""
    lab.empty()
    packed, lower = f"{lab.work}/image.erofs", f"{lab.work}/lower"
    os.makedirs(lower)
    below = lab.kitchen.trees(image)
    merged = overlay_of(below, f"{lab.work}/merged")
    run("mkfs.erofs", packed, merged)
    run("umount", merged)
    loop = run("losetup", "--read-only", "--find", "--show", packed).strip()
    containerd = None
    try:
        run("blockdev", "--setra", "0", loop)
        run("mount", "-t", "erofs", "-o", "ro", loop, lower)
        containerd = Containerd(f"{lab.work}/c", {})
        # Before the start: afterwards there must be no time for the kernel to take pages back.
        files = sizes(lower)
        lab.cold([])
        root = overlay(f"{lab.work}/floor", lower)
        containerd.start_in(name(), image, root)
        return count(files)
    finally:
        if containerd:
            containerd.stop()
        lab.empty()
        run("losetup", "--detach", loop)


def overlay_of(below, target):
    """Shows trees merged, for reading."""
    os.makedirs(target)
    lower = ":".join(reversed(below))
    run("mount", "-t", "overlay", "overlay", target, "-o", f"ro,lowerdir={lower}")
    return target


def sizes(root):
    """Regular files that are not empty, and their sizes."""
    found = {}
    for directory, _, names in os.walk(root):
        for path in (os.path.join(directory, it) for it in names):
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode) and status.st_size:
                found[path] = status.st_size
    return found


def count(files):
    """Pages in memory of all files, and what they compress to."""
    resident = Resident()
    touched = {path: resident.pages(path, size) for path, size in files.items()}
    touched = {path: pages for path, pages in touched.items() if pages}
    return {
        "files": len(touched),
        "whole_bytes": sum(files[path] for path in touched),
        "touched_bytes": sum(map(len, touched.values())) * PAGE,
        "compressed_bytes": sum(compress(path, pages) for path, pages in touched.items()),
    }


class Resident:
    """mincore(2)."""

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = ctypes.c_void_p
        self.libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int,
                                   ctypes.c_int, ctypes.c_long]  # fmt: skip
        self.libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
        self.libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

    def pages(self, path, size):
        """Numbers of a file's pages that are in memory."""
        state = ctypes.create_string_buffer(-(-size // PAGE))
        with open(path, "rb") as file:
            at = self.libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, file.fileno(), 0)
        if at in (None, ctypes.c_void_p(-1).value):
            raise OSError(ctypes.get_errno(), f"mmap {path}")
        wrong = self.libc.mincore(at, size, state)
        code = ctypes.get_errno()
        self.libc.munmap(at, size)
        if wrong:
            raise OSError(code, f"mincore {path}")
        return [page for page, bits in enumerate(state.raw) if bits & 1]


def compress(path, pages):
    """What these pages of a file come to with zlib's middle level."""
    total, piece = 0, bytearray()
    with open(path, "rb", buffering=0) as file:
        for page in pages:
            piece += os.pread(file.fileno(), PAGE, page * PAGE)
            if len(piece) >= PIECE:
                total += len(zlib.compress(piece, 6))
                piece.clear()
    return total + (len(zlib.compress(piece, 6)) if piece else 0)


def text(found):
    """One line for the report."""
    return (
        f"floor of python-ml: {found['files']} files of {found['whole_bytes'] / 1e6:.0f} MB, "
        f"touched {found['touched_bytes'] / 1e6:.0f} MB, "
        f"compressed {found['compressed_bytes'] / 1e6:.0f} MB"
    )
