"""What the four methods share: metrics, input and output, runs, processes, and the embedded scenes."""
