"""The paper's ablation of the teachers on embedded scenes: `python -m avkd.ablate --seeds 3` (Table 2)."""
from common.ablate import ablate

NO_IMAGE, NO_AUDIO = ["--no-teach-image"], ["--no-teach-audio"]
TABLES = {"2": {"base, no teacher": NO_IMAGE + NO_AUDIO, "audio teacher": NO_IMAGE, "visual teacher": NO_AUDIO, "both teachers": []}}
COLUMNS = {"avc/ciou@0.5": "cIoU", "avc/auc": "AUC", "avc/ciou_adaptive@0.5": "cIoU adap.", "avc/auc_adaptive": "AUC adap.",
           "avc/pointing": "pointing", "avc/iiou_adaptive": "IIoU adap.", "og/ciou@0.5": "OG: cIoU",
           "og/ciou_adaptive@0.5": "OG: cIoU adap.", "control/silent_ciou_adaptive@0.5": "silence: cIoU adap."}


def main(argv=None):
    ablate("avkd", __doc__, TABLES, COLUMNS, argv)


if __name__ == "__main__":
    main()
