#!/usr/bin/env python3
"""Makes layer.tar, from which the blobs in this directory were made (see README.md)."""
import io, sys, tarfile, hashlib

def noise(seed, length):
    out = b""
    counter = 0
    while len(out) < length:
        out += hashlib.sha256(f"{seed}{counter}".encode()).digest()
        counter += 1
    return out[:length]

def main(path):
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        def add(name, kind, data=b"", **fields):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mtime = kind, len(data), 1700000000
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data) if data else None)
        add("./", tarfile.DIRTYPE, mode=0o755)
        add("./etc/", tarfile.DIRTYPE, mode=0o755, uname="root", gname="root")
        add("./etc/hello", tarfile.REGTYPE, b"hello world\n", mode=0o644, uname="root", gname="root")
        add("./etc/empty", tarfile.REGTYPE, mode=0o600, uid=1000, gid=1000, uname="me", gname="us")
        add("./etc/link", tarfile.SYMTYPE, linkname="../etc/hello", mode=0o777)
        add("./etc/hard", tarfile.LNKTYPE, linkname="./etc/hello", mode=0o644)
        add("./usr/", tarfile.DIRTYPE, mode=0o1777)
        add("./usr/noise", tarfile.REGTYPE, noise("a", 9000), mode=0o4755)
        add("./usr/thousand", tarfile.REGTYPE, noise("b", 2000), mode=0o644)
        add("./usr/holes", tarfile.REGTYPE, noise("c", 3000) + bytes(100000) + noise("d", 3000), mode=0o644)
        add("./usr/time", tarfile.REGTYPE, b"t", mode=0o644, mtime=1700000000.25)
        add("./usr/old", tarfile.REGTYPE, b"o", mode=0o644, mtime=-86400)
        add("./usr/cap", tarfile.REGTYPE, b"c", mode=0o755, pax_headers={
            "SCHILY.xattr.user.note": "some text",
            "SCHILY.xattr.security.selinux": "system_u:object_r:bin_t:s0"})
        add("./usr/" + "long" * 40, tarfile.REGTYPE, b"long name", mode=0o644)
        add("./usr/\u00fcml\u00e4ut", tarfile.REGTYPE, b"utf-8", mode=0o644)
        add("./dev/null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3)
        add("./dev/loop0", tarfile.BLKTYPE, mode=0o660, devmajor=7, devminor=0)
        add("./dev/pipe", tarfile.FIFOTYPE, mode=0o600)
        add("./var/.wh.gone", tarfile.REGTYPE, mode=0o644)
        add("./var/.wh..wh..opq", tarfile.REGTYPE, mode=0o644)

main(sys.argv[1])
