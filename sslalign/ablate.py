"""The paper's ablations on embedded scenes: `python -m sslalign.ablate --table 8 9 10 11 12 --seeds 3` (Tables VIII to XII)."""
from common.training.ablation import ablate

from .config import TINY

SEMANTIC, VIEW = ["--no-semantic-image", "--no-semantic-audio"], ["--no-view-image", "--no-view-audio"]  # what takes them away
ALIGN = ["--no-align"]
TABLES = {
    "8": {"A semantic, multi-view, alignment": [], "B semantic, multi-view": ALIGN, "C semantic, alignment": VIEW,
          "D semantic": VIEW + ALIGN, "E multi-view, alignment": SEMANTIC, "F multi-view": SEMANTIC + ALIGN,
          "G alignment": SEMANTIC + VIEW, "H none": SEMANTIC + VIEW + ALIGN},
    "9": {"semantic, both modalities": VIEW, "semantic, sound alone": [*VIEW, "--no-semantic-image"],
          "semantic, picture alone": [*VIEW, "--no-semantic-audio"], "hand-crafted, both modalities": SEMANTIC,
          "hand-crafted, sound alone": [*SEMANTIC, "--no-view-image"],
          "hand-crafted, picture alone": [*SEMANTIC, "--no-view-audio"]},
    "10": {f"k = {k}": ["--k", str(k)] * (k != TINY.k) for k in (1, 5, 50, 200)},
    "11": {"random in top k": VIEW + ALIGN, "nearest": VIEW + ALIGN + ["--sampling", "nearest"],
           "anchor itself": VIEW + ALIGN + ["--sampling", "anchor"], "no semantic sample": SEMANTIC + VIEW + ALIGN},
    "12": {"ours": [], "ours + L_intra": ["--intra"]},
}
COLUMNS = {"pairs/ciou@0.5": "cIoU", "pairs/ciou_adaptive@0.5": "cIoU adap.", "pairs/auc": "AUC", "pairs/auc_adaptive": "AUC adap.",
           "interactive/iiou_adaptive": "IIoU adap.", "retrieval/a2i_r@1_category": "A→I R@1",
           "control/silent_iiou_adaptive": "silence: IIoU adap."}


def main(argv=None):
    ablate("sslalign", __doc__, TABLES, COLUMNS, argv)


if __name__ == "__main__":
    main()
