"""Published data sets: readers of their annotation files, training corpora, and preparation."""
from .readers import FRAME_RATE, READERS, UNANNOTATED, is_on_disk, listed_samples, load_samples
from .samples import Sample, gt_map, hold_out, readable_samples

__all__ = ["FRAME_RATE", "READERS", "UNANNOTATED", "Sample", "gt_map", "hold_out",
           "is_on_disk", "listed_samples", "load_samples", "readable_samples"]
