"""What the benchmarks share: tables that survive an interruption, limited processes, networks, training, plots."""
