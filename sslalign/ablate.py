"""Tables VIII to XII, the ablations, on scenes: `python -m sslalign.ablate --table 8 9 10`."""
from common.training.ablation import ablate

SEMANTIC = ["--no-semantic-image", "--no-semantic-audio"]  # what takes it away
VIEW, ALIGN = ["--no-view-image", "--no-view-audio"], ["--no-align"]
TABLES = {
    "8": {"A semantic, multi-view, alignment": [], "B semantic, multi-view": ALIGN,
          "C semantic, alignment": VIEW, "D semantic": VIEW + ALIGN,
          "E multi-view, alignment": SEMANTIC, "F multi-view": SEMANTIC + ALIGN,
          "G alignment": SEMANTIC + VIEW, "H none": SEMANTIC + VIEW + ALIGN},
    "9": {"semantic, both modalities": VIEW,
          "semantic, audio alone": [*VIEW, "--no-semantic-image"],
          "semantic, images alone": [*VIEW, "--no-semantic-audio"],
          "hand-crafted, both modalities": SEMANTIC,
          "hand-crafted, audio alone": [*SEMANTIC, "--no-view-image"],
          "hand-crafted, images alone": [*SEMANTIC, "--no-view-audio"]},
    # the paper's 10, 100, 500 and 1000 (but not 30) of 144 000 pairs, as shares of 9 000
    "10": {f"k = {k}": ["--k", str(k)] for k in (1, 6, 31, 63)},
    "11": {"random in top k": VIEW + ALIGN, "nearest": [*VIEW, *ALIGN, "--sampling", "nearest"],
           "anchor itself": [*VIEW, *ALIGN, "--sampling", "anchor"],
           "no semantic sample": SEMANTIC + VIEW + ALIGN},
    "12": {"ours": [], "ours + L_intra": ["--intra"]},
}
# Semantic positives from the first step, at the paper's constant rate (by default they come in the
# last pass and get 0.4 % of the summed rate), and scenes that link an image to its audio.
ON_SCENES = dict.fromkeys(TABLES, ("--semantic-from", "0", "--link", "--schedule", "constant"))
COLUMNS = {
    "pairs/ciou@0.5": "cIoU", "pairs/ciou_adaptive@0.5": "cIoU adap.", "pairs/auc": "AUC",
    "pairs/auc_adaptive": "AUC adap.", "interactive/iiou_adaptive": "IIoU adap.",
    "retrieval/a2i_r@1_category": "A→I R@1", "control/silent_iiou_adaptive": "silence: IIoU adap."}


def main(argv=None):
    ablate("sslalign", __doc__, TABLES, COLUMNS, argv, on_scenes=ON_SCENES)


if __name__ == "__main__":
    main()
