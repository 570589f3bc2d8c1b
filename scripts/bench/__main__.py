"""Options, the order of rounds, results. Started by scripts/bench-pull, as root, in a mount
namespace of its own."""

import argparse
import fcntl
import os
import shutil
import signal
import sys

from . import floor, images, machine, modes, plots, report
from .lab import Lab
from .links import LINKS, Proxy, limits
from .measure import measure
from .process import Failed
from .registry import Registry

# Signatures name the registry, so its name is the same each time.
PROXY = "127.0.0.1:21500"
REGISTRY = "127.0.0.1:21501"


def say(text):
    """Progress goes to standard error."""
    print(text, file=sys.stderr, flush=True)


def options():
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench-pull", description=__doc__.split(".")[0])
    parser.add_argument(
        "--only", action="append", default=[], metavar="IMAGE,LINK,MODE",
        help="only these; any part may be left out, several of a kind named; may be given again",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each (default: 5)")
    parser.add_argument(
        "--json", metavar="FILE", help="where to save results (CSV and plots beside it)"
    )
    parser.add_argument(
        "--small-model", type=int, default=4096, metavar="MIB",
        help="size of the model's file, for trying (default: 4096)",
    )  # fmt: skip
    parser.add_argument("--nacre-format", default="zstd-chunked", choices=["estargz", "zstd-chunked"])
    parser.add_argument("--nacre-chunk-kib", type=int, metavar="KIB", help="nacre image convert's")
    parser.add_argument("--nacre-config", metavar="TOML", help="lines for nacre.toml, for trying")
    parser.add_argument("--requests", metavar="DIR", help="save every request of each first round")
    parser.add_argument(
        "--floor", action="store_true", help="only the pages that python-ml touches"
    )
    parser.add_argument(
        "--frugal", action="store_true",
        help="for small disks: one mode after another, variants removed when no later mode needs them",
    )  # fmt: skip
    parser.add_argument("--prepare", action="store_true", help="only make images and variants")
    for hidden in ("--cache", "--nacre", "--link-proxy"):
        parser.add_argument(hidden, required=True, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    wanted.json = wanted.json or os.path.join(wanted.cache, "results.json")
    return wanted


def choose(only, kinds):
    """Names chosen of each kind: all of a kind that no `--only` names."""
    chosen = [set() for _ in kinds]
    for word in ",".join(only).split(","):
        word = word.strip()
        if not word:
            continue
        found = [at for at, names in enumerate(kinds) if word in names]
        if not found:
            known = "; ".join(", ".join(names) for names in kinds)
            raise Failed(f"--only: {word} is none of {known}")
        chosen[found[0]].add(word)
    return [
        [name for name in names if not picked or name in picked]
        for names, picked in zip(kinds, chosen, strict=True)
    ]


def run(lab, plan, rounds, failures, save):
    """All rounds of each image and link: the modes in turn, another first in each round."""
    for image, link, cell_modes in plan:
        cells = {mode.name: [] for mode in cell_modes}
        for number in range(rounds):
            turn = number % max(len(cell_modes), 1)
            for mode in cell_modes[turn:] + cell_modes[:turn]:
                if (image.name, link, mode.name) in failures:
                    continue
                try:
                    one, requests = measure(lab, mode, image, link)
                except (Failed, OSError) as error:
                    failures[image.name, link, mode.name] = failed(lab, image, link, mode, error)
                    continue
                cells[mode.name].append(one)
                if number == 0 and lab.options.requests:
                    save_requests(lab.options.requests, image, link, mode, requests)
                say(
                    f"{image.name} {link} {mode.name} {number + 1}/{rounds}: "
                    f"ready {one['ready_s']:.2f} s, "
                    f"{one['requests']} requests, {one['bytes'] / 1e6:.1f} MB"
                )
        save([
            report.summary(image.name, link, name, measured)
            for name, measured in cells.items()
            if measured and (image.name, link, name) not in failures
        ])  # fmt: skip


def failed(lab, image, link, mode, error):
    """Says what went wrong and keeps the logs; gives the reason."""
    what = f"{image.name}-{link}-{mode.name}"
    logs = lab.keep_logs(os.path.join(beside(lab.options) + "-failed", what))
    say(f"{image.name} {link} {mode.name}: {error}" + f" (logs: {logs})" * bool(logs))
    return str(error)


def beside(wanted):
    """What the names of all files beside the JSON start with."""
    return os.path.splitext(wanted.json)[0]


def save_requests(directory, image, link, mode, requests):
    """One file a cell."""
    os.makedirs(directory, exist_ok=True)
    report.save_json(os.path.join(directory, f"{image.name}-{link}-{mode.name}.json"), requests)


def able(chosen, missing):
    """The modes that can be measured here; why the others cannot goes to `missing`."""
    for mode in chosen:
        why = mode.missing()
        if why:
            missing[mode.name] = why
            say(f"missing: {mode.name}: {why}")
    return [mode for mode in chosen if mode.name not in missing]


def stages(chosen_images, chosen_modes, frugal):
    """What is made and run together, and the variants that nothing after it needs: all at once, or
    (frugal) a mode at a time."""
    if not frugal:
        yield chosen_images, chosen_modes, []
        return
    for image in chosen_images:
        for at, mode in enumerate(chosen_modes, 1):
            later = {it for other in chosen_modes[at:] for it in other.variants(image)}
            yield [image], [mode], [it for it in mode.variants(image) if it not in later]


def prepare(lab, chosen_images, chosen_modes, failures):
    """Makes images and variants; gives who takes part in what. The others are failures."""
    takes_part = {}
    for image in chosen_images:
        takes_part[image.name] = []
        for mode in chosen_modes:
            try:
                mode.ready_variant(image)
                takes_part[image.name].append(mode)
            except (Failed, OSError) as error:
                failures[image.name, "-", mode.name] = failed(lab, image, "variant", mode, error)
    return takes_part


def bench(lab, wanted):
    """Everything after the command line."""
    shutil.rmtree(beside(wanted) + "-failed", ignore_errors=True)
    catalogue = images.catalogue(wanted.small_model)
    all_modes = modes.every(lab)
    names = choose(wanted.only, [list(catalogue), list(LINKS), list(all_modes)])
    chosen_images = [catalogue[name] for name in names[0]]
    document = {
        "machine": machine.describe(wanted.nacre),
        "proxy": limits(wanted.link_proxy),
        "missing": {},
        "failed": [],
        "results": [],
    }
    say(f"link proxy by itself: {document['proxy']['gbit_per_s']:.1f} Gbit/s")
    if document["machine"]["reclaims_idle_memory"]:
        say("this kernel takes idle memory back: times of long rounds are not to be trusted")
    if wanted.floor:
        document["floor"] = floor.measure(lab, catalogue["python-ml"])
        print(floor.text(document["floor"]))
        return 0
    chosen_modes = able([all_modes[it] for it in names[2]], document["missing"])
    if "python-ml" in names[0] and not wanted.prepare:
        document["floor"] = floor.measure(lab, catalogue["python-ml"])

    results, failures = [], {}

    def save(more):
        results.extend(more)
        document["results"] = results
        document["failed"] = [
            {"image": image, "link": link, "mode": mode, "why": why}
            for (image, link, mode), why in failures.items()
        ]
        report.save_json(wanted.json, document)
        report.save_csv(beside(wanted) + ".csv", results)

    for some_images, some_modes, unused in stages(chosen_images, chosen_modes, wanted.frugal):
        takes_part = prepare(lab, some_images, some_modes, failures)
        if not wanted.prepare:
            plan = [(image, link, takes_part[image.name]) for image in some_images
                    for link in names[1]]  # fmt: skip
            run(lab, plan, wanted.rounds, failures, save)
        lab.forget(unused)
    if wanted.prepare:
        return 1 if failures else 0
    results.sort(key=lambda it: [kind.index(it[key]) for key, kind in
                                 zip(("image", "link", "mode"), names, strict=True)])  # fmt: skip
    save([])
    print(report.table(results))
    if "floor" in document:
        print(floor.text(document["floor"]))
    for name, why in document["missing"].items():
        print(f"missing: {name}: {why}")
    for (image, link, mode), why in failures.items():
        print(f"failed: {image} {link} {mode}: {why}")
    if results:
        plots.save(beside(wanted) + "-plots", results, list(all_modes))
        say(f"saved: {wanted.json}, {beside(wanted)}.csv, {beside(wanted)}-plots/")
    return 1 if failures or not results else 0


def main():
    """Starts what all rounds share, and ends it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    wanted = options()
    os.makedirs(wanted.cache, exist_ok=True)
    with open(os.path.join(wanted.cache, "lock"), "w", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Failed(f"another bench-pull runs with {wanted.cache}") from error
        registry = Registry(os.path.join(wanted.cache, "registry"), REGISTRY, PROXY)
        try:
            proxy = Proxy(wanted.link_proxy, PROXY, REGISTRY)
            try:
                lab = Lab(wanted.cache, wanted, registry, proxy, say)
                try:
                    return bench(lab, wanted)
                finally:
                    lab.empty()
            finally:
                proxy.stop()
        finally:
            registry.stop()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        say(f"error: {error}")
        sys.exit(1)
