"""Published data sets: readers of their annotation files, training corpora, and preparation."""
from .readers import FRAME_RATE, READERS, UNANNOTATED, find_on_disk, listed_samples, load_samples
from .samples import Sample, gt_map, hold_out, readable_samples

__all__ = ["FRAME_RATE", "READERS", "UNANNOTATED", "Sample", "find_on_disk", "gt_map",
           "hold_out", "listed_samples", "load_samples", "readable_samples"]
