"""One round of one mode: cold, from the start of the pull to the workload's first line, then a
second container."""

import itertools
import os
import time

NAMES = itertools.count(1)


def measure(lab, mode, image, link):
    """Runs a round; gives what was measured, and the requests."""
    lab.empty()
    lab.cold(mode.programs, mode.repository(image), mode.tag)
    lab.proxy.set(link)
    session = mode.session(image)
    try:
        cpu = session.cpu_s()
        lab.proxy.reset()
        start = time.monotonic()
        session.pull()
        pulled = time.monotonic()
        mounted = lab.proxy.counters()
        ready = session.start(name())
        counted = lab.proxy.counters()
        requests = lab.proxy.log()
        cpu = session.cpu_s() - cpu
        again = time.monotonic()
        second = session.start(name()) - again
        return {
            "ready_s": ready - start,
            "pull_s": pulled - start,
            "second_start_s": second,
            "bytes": counted["bytes"],
            "requests": counted["requests"],
            "connections": counted["connections"],
            "round_trips_before_mount": mounted["round_trips"],
            "round_trips": counted["round_trips"],
            "rss_bytes": session.rss_bytes(),
            "cpu_s": cpu,
        }, requests
    finally:
        session.stop()


def name():
    """A container's name: runc knows those of every containerd on the machine."""
    return f"bench-{os.getpid()}-{next(NAMES)}"
