"""Side-by-side benchmarks: ours, the peers and the limit in one run."""
