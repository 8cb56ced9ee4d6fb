"""Table 2, the ablation of the memory, on scenes: `python -m stmnet.ablate --seeds 3`."""
from common.training.ablation import ablate

TABLES = {"2": {"without temporal": ["--memory", "none"], "U": ["--memory", "U"], "C+U": []}}
COLUMNS = {
    "attention/ciou@0.5": "cIoU@0.5", "attention/iou@0.5": "IoU@0.5",
    "attention/iou_released@0.5": "IoU@0.5 (released)", "attention/ciou_mean": "cIoU",
    "frames/pointing": "pointing", "frames/stability": "stability", "events/accuracy": "accuracy",
    "silence/accuracy": "silence: accuracy", "turns/pointing": "turns: pointing",
    "control/shuffled_pointing": "shuffled audio: pointing"}


def main(argv=None):
    ablate("stmnet", __doc__, TABLES, COLUMNS, argv)


if __name__ == "__main__":
    main()
