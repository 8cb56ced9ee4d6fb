"""Published data sets: readers of their annotation files, training corpora, and preparation."""
from .readers import FRAME_RATE, READERS, UNANNOTATED, find_on_disk, listed_samples, load_samples
from .samples import Sample, gt_map, hold_out, readable_samples
