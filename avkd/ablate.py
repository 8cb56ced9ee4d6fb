"""Table 2, the ablation of the teachers, and of the weights: `python -m avkd.ablate --table 2`."""
from common.training.ablation import ablate

from .config import TINY

NO_IMAGE, NO_AUDIO = ["--no-teach-image"], ["--no-teach-audio"]
# The weight of each element of the map is then the paper's.
PAPER_ALPHA3 = ["--alpha3", str(TINY.channels * TINY.side**2)]
TABLES = {
    "2": {"base, no teacher": NO_IMAGE + NO_AUDIO, "audio teacher": NO_IMAGE,
          "visual teacher": NO_AUDIO, "both teachers": []},
    "weights": {"both teachers": [], "alpha3 as in the paper": PAPER_ALPHA3,
                "tau 0.03": ["--tau", "0.03"],
                "alpha3 as in the paper, tau 0.03": [*PAPER_ALPHA3, "--tau", "0.03"]},
}
COLUMNS = {
    "avc/ciou@0.5": "cIoU", "avc/auc": "AUC", "avc/ciou_adaptive@0.5": "cIoU adap.",
    "avc/auc_adaptive": "AUC adap.", "avc/pointing": "pointing",
    "avc/iiou_adaptive": "IIoU adap.", "og/ciou@0.5": "OG: cIoU",
    "og/ciou_adaptive@0.5": "OG: cIoU adap.",
    "control/silent_ciou_adaptive@0.5": "silence: cIoU adap."}


def main(argv=None):
    ablate("avkd", __doc__, TABLES, COLUMNS, argv)


if __name__ == "__main__":
    main()
