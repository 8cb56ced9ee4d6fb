"""avkd's configuration. `tiny` is the embedded default, `paper` is sections 3.4, 3.6 and 4.1 of the paper."""
from dataclasses import dataclass, replace

from common.training import RunConfig, flag

HINTS = ("backbone", "encoder", "decoder")
AUDIO_TEACHERS = ("cnn14", "wavegram_logmel_cnn14")


@dataclass(frozen=True)
class Config(RunConfig):
    data: str = flag("scenes", "scenes, vggsound or flickr-soundnet (pairs of a picture and a sound; no labels are read)")
    ids: str = flag("", "file with the ids to train on, as flickr_10k.txt (none: all of the data set)", free_on_resume=True)
    epochs: int = flag(16, "passes over the pairs (4.1)")
    batch_size: int = flag(32, "pairs a step, over all processes: k of Eqs. (1) to (3)")
    lr: float = flag(3e-3, "learning rate of Adam")
    schedule: str = flag("cosine", "of the learning rate; cosine begins with half an epoch of warm-up", ("constant", "cosine"))
    repeats: int = flag(1, "trainings with the seeds from --seed on; the table then has mean ± standard deviation", free_on_resume=True)

    # Inputs (3.6)
    scenes: int = flag(4000, "pairs to learn from, when --data is scenes")
    lone: float = flag(0.5, "share of these scenes that hold one object; in all others, and in every evaluation, a second one is silent")
    held_out: int = flag(500, "samples in each set of the evaluation on scenes; pairs held out for validation")
    image_size: int = flag(64, "side of the picture in pixels")
    sample_rate: int = flag(8000, "Hz")
    channel: str = flag("mean", "of stereo sound: mean of both, or left", ("mean", "left"))
    seconds: float = flag(1.5, "length to which a sound is repeated or cut (0: the whole file)")
    crop: float = flag(1.0, "seconds around its middle, which the model hears")
    window: int = flag(256, "samples in a frame of the spectrogram")
    hop: int = flag(256, "samples from frame to frame (windows of 512 with overlap 274: 238)")
    augment: bool = flag(False, "random crops and mirrored pictures; the visual hints move along")

    # Students (3.3, 3.6)
    blocks: tuple[int, ...] = flag((1, 1, 1), "blocks in each stage of the two ResNets; 2 2 2 2 is ResNet-18")
    width: int = flag(16, "width of their first stage; each further one is twice as wide")
    last_stride: int = flag(1, "stride of the visual ResNet's last stage", (1, 2))
    channels: int = flag(128, "c, width of the shared space (as the hints', but for DETR's encoder and decoder)")
    vision_weights: str = flag("", "published ResNet-18 file to begin F_v with (none: from scratch; the paper is silent)", free_on_resume=True)

    # Teachers (3.4): Table 2
    teach_image: bool = flag(True, "the visual teacher, L_v of Eq. (2) (Table 2)")
    teach_audio: bool = flag(True, "the audio teacher, L_a of Eq. (3) (Table 2)")
    hints: str = flag("", "folder of `python -m avkd.teachers`; scenes make their own", free_on_resume=True)
    visual_hint: str = flag("backbone", "which features of DETR are e_v", HINTS)
    teacher_size: int = flag(224, "side of the picture that DETR sees; its map is then averaged to that of F_v")
    audio_teacher: str = flag("cnn14", "which of PANNs gives e_a", AUDIO_TEACHERS)
    teacher_steps: int = flag(600, "steps of the small visual teacher that scenes train first; the audio teacher has half as many")

    # Losses (3.3, 3.4)
    tau: float = flag(0.1, "temperature of Eq. (1) (not given in the paper)")
    alpha1: float = flag(1.0, "weight of L_S, Eq. (1)")
    alpha2: float = flag(64.0, "weight of L_a, Eq. (3)")
    alpha3: float = flag(65536.0, "weight of L_v, Eq. (2)")
    visual_norm: str = flag("map", "what of f_v and e_v is normalised before Eq. (2): the whole map, or each position", ("map", "position"))
    chunk: int = flag(128, "pictures whose k maps of Eq. (1) are in memory at a time")

    benchmark: str = flag("", "benchmark to evaluate at the end, as flickr or vggss (with scenes: instead of scenes)")
    benchmark_root: str = flag("", "its folder", free_on_resume=True)
    validate_every: int = flag(1, "epochs between validations; the last epoch is always validated")

    def validate(self) -> None:
        """Raises ValueError for what cannot be."""
        for name in ("scenes", "image_size", "sample_rate", "window", "hop", "width", "channels", "chunk", "validate_every", "repeats"):
            if not getattr(self, name):
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        if self.held_out < 2:
            raise ValueError("--held-out must be at least 2: a sound is told from another")
        if not (self.epochs or self.steps):
            raise ValueError("--epochs or --steps must not be 0")
        if not self.tau > 0:
            raise ValueError("--tau must be positive")
        if (self.seconds and self.crop > self.seconds) or self.crop * self.sample_rate < self.window:
            raise ValueError(f"--crop {self.crop:g} must be at most --seconds {self.seconds:g} and hold one --window {self.window}")
        if self.image_size % 16 or self.image_size < 32:
            raise ValueError(f"--image-size {self.image_size} is not a multiple of 16 from 32 up")
        if self.data != "scenes" and (self.teach_image or self.teach_audio) and not self.hints:
            raise ValueError("--hints must name a folder that `python -m avkd.teachers` has made, or is to make, when --data is not scenes")
        if bool(self.benchmark) != bool(self.benchmark_root):
            raise ValueError("--benchmark goes with --benchmark-root")
        if not 2 <= len(self.blocks) <= 4 or min(self.blocks) < 1:
            raise ValueError("--blocks are two to four numbers, at least 1 each")
        if self.vision_weights and (self.width != 64 or self.blocks != (2, 2, 2, 2)):
            raise ValueError("--vision-weights are of a ResNet-18: --blocks 2 2 2 2 --width 64")

    @property
    def side(self) -> int:
        """h = w of F_v's map."""
        return -(-self.image_size // (2 ** len(self.blocks) * self.last_stride))


TINY = Config()
PAPER = replace(
    TINY, preset="paper", data="flickr-soundnet", epochs=100, batch_size=128, lr=1e-4, schedule="constant", image_size=224,
    sample_rate=22050, seconds=0.0, crop=3.0, window=512, hop=238, blocks=(2, 2, 2, 2), width=64, last_stride=2, channels=2048,
    hints="hints", tau=0.03, alpha2=1000.0, alpha3=100000.0, workers=8)
PRESETS = {"tiny": TINY, "paper": PAPER}
