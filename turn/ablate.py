"""The paper's tables 3, 4, figures 3, 4; 3-scenes and fig3-scenes are what scenes give of them."""
from common.training.ablation import ablate

TABLES = {
    "4": {"all": [], "no adaptive sampling": ["--no-adaptive"],
          "no reconstruction loss": ["--lambda-recon", "0"], "no codebook loss": ["--beta", "0"],
          "no contrastive loss": ["--lambda-contra", "0"]},
    "3": {f"{s} + {m}": ["--data", f"{s}+{m}"] for m in ("audiocaps", "clotho")
          for s in ("refcoco", "refcoco+", "refcocog")},
    "3-scenes": {f"{s} + {m}": ["--phrases", s, "--clips", m] for m in ("audiocaps", "clotho")
                 for s in ("refcoco", "refcoco+", "refcocog")},
    "fig3": {f"q = {q}, {codes} codes": ["--groups", str(q), "--codes", str(codes)]
             for codes in (256, 512, 1024) for q in (1, 2, 4)},
    # the default's 64 codes for 12 classes, half and double, as the paper's 512
    "fig3-scenes": {f"q = {q}, {codes} codes": ["--groups", str(q), "--codes", str(codes)]
                    for codes in (32, 64, 128) for q in (1, 2, 4)},
    "fig4": {f"{s}-{m}": ["--recon-source", s, "--recon-intermediate", m]
             for s in ("no", "self") for m in ("no", "self", "cross")},
}
COLUMNS = {"audio/ciou@0.5": "audio cIoU@0.5", "audio/auc": "audio AUC", "text/ciou@0.5": "text",
           "three/audio/ciou@0.5": "audio, 3 objects", "codebook/agreement": "codes shared",
           "music-solo/audio/ciou@0.5": "MUSIC cIoU@0.5", "music-solo/audio/auc": "MUSIC AUC"}


def main(argv=None):
    ablate("turn", __doc__, TABLES, COLUMNS, argv, real=("3", "fig3"))


if __name__ == "__main__":
    main()
