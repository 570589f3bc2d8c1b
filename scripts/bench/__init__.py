"""The harness behind scripts/bench-pull: what it measures and why is in docs/benchmarks.md."""
