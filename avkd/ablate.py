"""The paper's ablation of the teachers on embedded scenes, and what the weights do: `python -m avkd.ablate --table 2 weights`."""
from common.training.ablation import ablate

from .config import TINY

NO_IMAGE, NO_AUDIO = ["--no-teach-image"], ["--no-teach-audio"]
SHARE = str(TINY.channels * TINY.side**2)  # alpha3 that weighs each element of the map as much as the paper's
TABLES = {
    "2": {"base, no teacher": NO_IMAGE + NO_AUDIO, "audio teacher": NO_IMAGE, "visual teacher": NO_AUDIO, "both teachers": []},
    "weights": {"both teachers": [], "alpha3 as in the paper": ["--alpha3", SHARE], "tau 0.03": ["--tau", "0.03"],
                "alpha3 as in the paper, tau 0.03": ["--alpha3", SHARE, "--tau", "0.03"]},
}
COLUMNS = {"avc/ciou@0.5": "cIoU", "avc/auc": "AUC", "avc/ciou_adaptive@0.5": "cIoU adap.", "avc/auc_adaptive": "AUC adap.",
           "avc/pointing": "pointing", "avc/iiou_adaptive": "IIoU adap.", "og/ciou@0.5": "OG: cIoU",
           "og/ciou_adaptive@0.5": "OG: cIoU adap.", "control/silent_ciou_adaptive@0.5": "silence: cIoU adap."}


def main(argv=None):
    ablate("avkd", __doc__, TABLES, COLUMNS, argv)


if __name__ == "__main__":
    main()
