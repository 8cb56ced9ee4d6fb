"""From heatmaps and boxes to numbers: one definition of each metric of this field, with its source.

Functions of arrays take numpy arrays or tensors and return the same kind, on the same device.
"""
from .arrays import NotFinite
from .detection import (average_precision, box_iou, confidence, generalized_box_iou, loc_acc,
                        max_f1)
from .gt import boxes_to_map, consensus_map
from .interactive import interactive, interactive_auc
from .localization import (auc, baseline_values, ciou, iou, localization, mean, pointing,
                           success_rate)
from .protocols import PROTOCOLS, binarize, normalise, object_guided, resize, threshold
from .retrieval import alignment, magnitude, retrieval
from .segmentation import best_f, f_curves, f_score, mask_iou, mask_miou
