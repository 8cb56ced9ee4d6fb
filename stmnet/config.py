"""stmnet's configuration. `tiny` is the embedded default, `paper` is sections 3 and 4.2 of the paper."""
from dataclasses import dataclass, replace

from common.training import RunConfig, flag

from .backbones.vggish import BANDS, HOP, RATE, WINDOW

ENCODERS = ("train", "frozen")
AUDIO = ("resnet", "vggish")
BOX_MAPS = ("attention", "scores")


@dataclass(frozen=True)
class Config(RunConfig):
    data: str = flag("scenes", "scenes, or ave (videos with one label each)")
    train_list: str = flag("trainSet.txt", "which videos of ave to train on: a list in ROOT/metadata, or a path", free_on_resume=True)
    held_out_list: str = flag("valSet.txt", "which to choose best.pt by (none: --held-out of the training's)", free_on_resume=True)
    epochs: int = flag(16, "passes over the videos, a second of each (4.2)")
    batch_size: int = flag(32, "clips a step, over all processes (4.2)")
    lr: float = flag(4e-3, "learning rate of Adam (4.2)")
    schedule: str = flag("cosine", "of the learning rate; cosine begins with half an epoch of warm-up", ("constant", "cosine"))

    # Inputs (4.2)
    scenes: int = flag(1000, "videos to learn from, when --data is scenes")
    clip_seconds: int = flag(4, "length of each of them in seconds, of which a clip is one")
    video_seconds: int = flag(10, "length of the videos of scenes that are evaluated, at a frame a second")
    blurred: float = flag(0.4, "share of the frames of scenes that are out of focus")
    held_out: int = flag(100, "videos held out for validation")
    test_videos: int = flag(200, "videos in each set of the evaluation on scenes", free_on_resume=True)
    T: int = flag(4, "frames of a training clip, all within one second")
    image_size: int = flag(64, "side of a frame in pixels")
    segment_seconds: float = flag(0.25, "sound of a frame, centred on it: T a second, or the 0.96 of VGGish (the paper gives no length)")
    augment: bool = flag(False, "frames resized by 1.1 and cropped at random, all of a clip at the same place")
    background: bool = flag(True, "a background class, the label of steps at which nothing sounds (Figure 6)")
    confidence: float = flag(0.5, "without a background class: a frame whose best class has less counts as background", free_on_resume=True)

    # Encoders (3.1, 4.2)
    encoders: str = flag("frozen", "frozen, with published weights or on scenes with those of small.py; or trained (the paper is silent)",
                         ENCODERS)
    encoder_steps: int = flag(2000, "steps of the small visual encoder's first task before that; its second and the audio encoder's "
                             "take a share of them, see small.py")
    blocks: tuple[int, ...] = flag((1, 1, 1), "blocks in each stage of the visual ResNet; 3 8 36 3 is ResNet-152 (bottlenecks)")
    width: int = flag(16, "width of its first stage; each further one is twice as wide")
    bottleneck: bool = flag(False, "its blocks are bottlenecks (ResNet-50 and deeper)")
    last_stride: int = flag(1, "stride of its last stage", (1, 2))
    audio: str = flag("resnet", "the audio encoder: a small ResNet of the log-mel patch, or VGGish's convolutions", AUDIO)
    audio_width: int = flag(16, "width of its first stage (VGGish: 64)")
    vision_weights: str = flag("", "published ResNet-152 (scenes have a small encoder without)", free_on_resume=True)
    audio_weights: str = flag("", "published VGGish (likewise)", free_on_resume=True)

    # Memory and model (3.2 to 3.4)
    C: int = flag(64, "width of the joint space")
    depth: int = flag(2, "1×1 convolutions with ReLU in each projection to it")
    K: int = flag(3, "past steps in memory: T - 1 in training, and live")
    K_evaluated: int = flag(1, "past steps in memory of an evaluation, whose steps are a second apart", free_on_resume=True)
    heads: int = flag(1, "L, attention heads of Eq. (2)")
    memory: str = flag("C+U", "cross-modal and uni-modal memory, uni-modal alone, or none (Table 2)", ("C+U", "U", "none"))
    similarity: str = flag("cosine", "of x_v and x_a in Eq. (1): the paper's dot product, or the cosine", ("dot", "cosine"))
    tau: float = flag(0.12, "what it is divided by before the softmax (1 in the paper)")
    phi: str = flag("avg", "global pooling of Eqs. (1) and (2)", ("avg", "max"))
    av_memory: str = flag("pre", "what the cross-modal memory holds of a step: x_av before its temporal attention, or of raw features",
                          ("pre", "raw"))

    # Boxes (3.3): nothing of this is trained
    box_map: str = flag("attention", "what boxes and frames/ are of: the attention map, or the scores before its softmax", BOX_MAPS, True)
    proposals: str = flag("", "published Faster R-CNN, whose proposals are scored by the attention map (none: no such column)",
                          free_on_resume=True)
    instances: int = flag(100, "proposals of a frame: N (not given in the paper)", free_on_resume=True)
    nms: float = flag(0.5, "IoU above which the box of lower score goes (not given in the paper)", free_on_resume=True)
    area_normalised: bool = flag(False, "divide the score of a box by its area, else large boxes win", free_on_resume=True)
    grounded: int = flag(1, "boxes of a frame that are kept after that (not given in the paper)", free_on_resume=True)

    benchmark: str = flag("", "benchmark to evaluate at the end: ave-boxes or audioset-instrument (with scenes: instead of scenes)")
    benchmark_root: str = flag("", "its folder", free_on_resume=True)
    validate_every: int = flag(1, "epochs between validations; the last epoch is always validated")

    def validate(self) -> None:
        """Raises ValueError for what cannot be."""
        for name in ("scenes", "clip_seconds", "T", "width", "audio_width", "C", "depth", "heads", "encoder_steps", "instances",
                     "grounded", "validate_every"):
            if not getattr(self, name):
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        if min(self.held_out, self.test_videos, self.video_seconds) < 2:
            raise ValueError("--held-out, --test-videos and --video-seconds must be at least 2: sounds are exchanged, neighbours compared")
        if not (self.epochs or self.steps):
            raise ValueError("--epochs or --steps must not be 0")
        if not 0.16 <= self.segment_seconds <= 60:
            raise ValueError("--segment-seconds must be between 0.16 and 60: VGGish's map has a cell for 16 frames of 10 ms")
        if self.image_size % 16 or self.image_size < 32:
            raise ValueError(f"--image-size {self.image_size} is not a multiple of 16 from 32 up")
        if self.image_size < 2**len(self.blocks) * 2 * self.last_stride:
            raise ValueError(f"--image-size {self.image_size} gives a map of one position, after --blocks and --last-stride")
        if bool(self.benchmark) != bool(self.benchmark_root):
            raise ValueError("--benchmark goes with --benchmark-root")
        if not 2 <= len(self.blocks) <= 4 or min(self.blocks) < 1:
            raise ValueError("--blocks are two to four numbers, at least 1 each")
        if self.encoders == "frozen" and self.data != "scenes" and not (self.vision_weights and self.audio_weights):
            raise ValueError(f"--encoders frozen on {self.data} needs --vision-weights and --audio-weights; or --encoders train")
        if not (0 <= self.blurred <= 1 and 0 < self.tau < float("inf")):
            raise ValueError("--blurred is between 0 and 1, --tau positive")
        if self.vision_weights and (self.blocks != (3, 8, 36, 3) or self.width != 64 or not self.bottleneck):
            raise ValueError("--vision-weights are of a ResNet-152: --blocks 3 8 36 3 --width 64 --bottleneck")
        if self.audio_weights and (self.audio != "vggish" or self.audio_width != 64):
            raise ValueError("--audio-weights are VGGish's: --audio vggish --audio-width 64")
        if not (0 <= self.nms <= 1 and 0 <= self.confidence <= 1):
            raise ValueError("--nms and --confidence are between 0 and 1")

    @property
    def patch(self) -> tuple[int, int]:
        """Frames and bands of the log-mel patch of a segment: 96 × 64 for 0.96 s."""
        return round(self.segment_seconds * RATE / HOP), BANDS

    @property
    def samples(self) -> int:
        """Samples of a segment: what its frames cover."""
        return (self.patch[0] - 1) * HOP + WINDOW


TINY = Config()
PAPER = replace(
    TINY, preset="paper", data="ave", epochs=30, batch_size=128, lr=1e-4, schedule="constant", image_size=256, augment=True,
    segment_seconds=0.96, background=False, blocks=(3, 8, 36, 3), width=64, bottleneck=True, last_stride=2, audio="vggish", audio_width=64,
    vision_weights="third_party/weights/resnet152-394f9c45.pth", audio_weights="third_party/weights/vggish-10086976.pth", C=256,
    similarity="dot", tau=1.0, workers=8)
PRESETS = {"tiny": TINY, "paper": PAPER}
