"""The page of a run, on which one hears each audio clip and sees its heatmap."""
from .clips import Clip, Gallery, Sample, mean_curves, pick, score_curve
from .report import write_page, write_report
