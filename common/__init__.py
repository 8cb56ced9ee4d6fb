"""What the four methods share: metrics, files, embedded data, benchmarks, evaluation, runs."""
