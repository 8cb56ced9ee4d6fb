"""sslalign's configuration. `tiny` is the embedded default, `paper` is section 4.1.3 of the paper and its released evaluation."""
from dataclasses import dataclass, replace

from common.training import RunConfig, flag


@dataclass(frozen=True)
class Config(RunConfig):
    data: str = flag("scenes", "scenes, vggsound or flickr-soundnet (pairs of a picture and a sound; no labels are read)")
    ids: str = flag("", "file with the ids to train on, as vggss_144k.txt (none: all of the data set)", free_on_resume=True)
    epochs: int = flag(3, "passes over the pairs (4.1.3)")
    easy: int = flag(5, "before them, passes over as many easy scenes: one large object, half the side (when --data is scenes)")
    batch_size: int = flag(32, "anchors a step, over all processes (not given in the paper)")
    lr: float = flag(5e-3, "learning rate of Adam (4.1.3)")
    schedule: str = flag("cosine", "of the learning rate; cosine begins with half an epoch of warm-up", ("constant", "cosine"))

    # Inputs (4.1.3: as in previous works; see the README)
    scenes: int = flag(9000, "pairs to learn from, when --data is scenes")
    lone: float = flag(0.25, "share of these scenes that hold one object; in all others, and in every evaluation, a second one is silent")
    held_out: int = flag(500, "samples in each set of the evaluation on scenes; pairs held out for validation")
    image_size: int = flag(64, "side of the picture in pixels")
    sample_rate: int = flag(8000, "Hz")
    channel: str = flag("mean", "of stereo sound: mean of both, or left as in the released evaluation", ("mean", "left"))
    seconds: float = flag(1.5, "length to which a sound is repeated or cut")
    crop: float = flag(1.0, "seconds of it, around its middle, that the model hears")
    shift: float = flag(0.25, "largest shift of these seconds in an augmented sound (range not given in the paper)")
    window: int = flag(128, "samples in a frame of the spectrogram")
    hop: int = flag(256, "samples from frame to frame")
    crop_scale: float = flag(0.6, "smallest share of the picture in a random crop (SimCLR: 0.08)")
    jitter: float = flag(0.4, "strength of the colour distortion (SimCLR: 1)")

    # Model (3.2, 4.1.3)
    blocks: tuple[int, ...] = flag((1, 1, 1), "blocks in each stage of the two ResNets; 2 2 2 2 is ResNet-18")
    width: int = flag(16, "width of their first stage; each further one is twice as wide")
    last_stride: int = flag(1, "stride of the visual ResNet's last stage: 1 as in the released checkpoints, or 2", (1, 2))
    vision_weights: str = flag("", "published ResNet-18 file to begin the visual encoder with (none: from scratch)", free_on_resume=True)
    projection: int = flag(128, "width of the projections p_v and p_a, Eq. (4)")

    # Positives (3.3): Table VIII, IX, X, XI
    view_image: bool = flag(True, "v_aug, hand-crafted positives of pictures")
    view_audio: bool = flag(True, "a_aug, hand-crafted positives of sounds")
    semantic_image: bool = flag(True, "v_conc, semantically similar positives of pictures")
    semantic_audio: bool = flag(True, "a_conc, semantically similar positives of sounds")
    neighbours: str = flag("own", "own: mined with the model's own features at every epoch; or a folder of `python -m sslalign.neighbors`")
    k: int = flag(5, "nearest neighbours to draw from (Table X)")
    mine_from: int = flag(2, "of --epochs, how many before neighbours are mined, and semantic positives begin (with --neighbours own)")
    sampling: str = flag("random", "of the k nearest: random, the nearest always, or the anchor itself (Table XI)",
                         ("random", "nearest", "anchor"))

    # Losses (3.4)
    tau: float = flag(0.07, "temperature, Eqs. (1), (2), (5)")
    align: bool = flag(True, "the alignment term s_A of Eq. (5) (Table VIII)")
    intra: bool = flag(False, "L_intra between positives of one modality (Table XII)")
    symmetric: bool = flag(False, "also contrast pictures for each sound (3.1)")

    benchmark: str = flag("", "benchmark to evaluate at the end, as vggss or is3 (with scenes: instead of scenes)")
    benchmark_root: str = flag("", "its folder", free_on_resume=True)
    validate_every: int = flag(1, "epochs between validations; the last epoch is always validated")

    def validate(self) -> None:
        """Raises ValueError for what cannot be."""
        for name in ("scenes", "image_size", "sample_rate", "window", "hop", "width", "projection", "k", "validate_every"):
            if not getattr(self, name):
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        if self.held_out < 2:
            raise ValueError("--held-out must be at least 2: a sound is told from another")
        if not (self.epochs or self.steps):
            raise ValueError("--epochs or --steps must not be 0")
        if not self.tau > 0 or not 0 < self.crop_scale <= 1:
            raise ValueError("--tau must be positive, --crop-scale in (0, 1]")
        if self.crop > self.seconds or self.crop * self.sample_rate < self.window:
            raise ValueError(f"--crop {self.crop:g} must be at most --seconds {self.seconds:g} and hold one --window {self.window}")
        if self.image_size % 16 or self.image_size < 32:
            raise ValueError(f"--image-size {self.image_size} is not a multiple of 16 from 32 up")
        if bool(self.benchmark) != bool(self.benchmark_root):
            raise ValueError("--benchmark goes with --benchmark-root")
        if not 2 <= len(self.blocks) <= 4 or min(self.blocks) < 1:
            raise ValueError("--blocks are two to four numbers, at least 1 each")
        if self.vision_weights and (self.width != 64 or self.blocks != (2, 2, 2, 2)):
            raise ValueError("--vision-weights are of a ResNet-18: --blocks 2 2 2 2 --width 64")


TINY = Config()
PAPER = replace(
    TINY, preset="paper", data="vggsound", epochs=50, easy=0, batch_size=128, lr=1e-4, schedule="constant", image_size=224,
    sample_rate=16000, seconds=10.0, crop=3.0, shift=1.0, window=512, hop=159, crop_scale=0.08, jitter=1.0, blocks=(2, 2, 2, 2),
    width=64, projection=512, neighbours="neighbours", k=1000, workers=8)
PRESETS = {"tiny": TINY, "paper": PAPER}
