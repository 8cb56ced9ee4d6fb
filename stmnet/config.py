"""stmnet's configuration: `tiny`, the embedded default, and `paper`, sections 3 and 4.2."""
from dataclasses import dataclass, replace

from common.training import RunConfig, flag

from .backbones.vggish import BANDS, HOP, RATE, WINDOW

BOX_MAPS = ("attention", "scores")


@dataclass(frozen=True)
class Config(RunConfig):
    data: str = flag("scenes", "scenes, or ave (videos with one label each)")
    train_list: str = flag("trainSet.txt", "training videos of ave: a list in ROOT/metadata, or a "
                           "path", free_on_resume=True)
    held_out_list: str = flag("valSet.txt", "validation videos of ave, likewise (none: --held-out "
                              "of the training videos)", free_on_resume=True)
    epochs: int = flag(16, "passes over the videos, one second of each (4.2)")
    batch_size: int = flag(32, "clips a step, over all processes (4.2)")
    lr: float = flag(4e-3, "learning rate of Adam (4.2)")
    schedule: str = flag("cosine", "of the learning rate; cosine warms up for half an epoch",
                         ("constant", "cosine"))

    # Inputs (4.2)
    scenes: int = flag(1000, "training videos of scenes")
    clip_seconds: int = flag(4, "their length; a clip is one second of them")
    video_seconds: int = flag(10, "length of test videos of scenes, evaluated at a frame a second")
    blurred: float = flag(0.4, "share of the frames of scenes that are out of focus")
    held_out: int = flag(100, "validation videos of scenes")
    test_videos: int = flag(200, "videos of each test set of scenes", free_on_resume=True)
    T: int = flag(4, "frames of a training clip, all within one second")
    image_size: int = flag(64, "side of a frame in pixels")
    segment_seconds: float = flag(0.25, "length of the audio segment centred on a frame (the "
                                  "paper gives none; VGGish's own is 0.96)")
    augment: bool = flag(False, "resize frames by 1.1 and crop all of a clip at one random place")
    background: bool = flag(True, "a background class, the label of steps at which nothing sounds "
                            "(Figure 6)")
    confidence: float = flag(0.5, "without a background class: frames whose best class has a lower "
                             "probability are background", free_on_resume=True)

    # Encoders (3.1, 4.2)
    encoders: str = flag("frozen", "frozen (published weights; on scenes those of small.py) or "
                         "trained; the paper does not say", ("train", "frozen"))
    encoder_steps: int = flag(2000, "training steps of the small visual encoder's first task; the "
                              "other tasks of small.py take a share of them")
    blocks: tuple[int, ...] = flag((1, 1, 1), "blocks in each stage of the visual ResNet; "
                                   "ResNet-152 has bottlenecks, 3 8 36 3")
    width: int = flag(16, "channels of its first stage, doubled at each further one")
    bottleneck: bool = flag(False, "its blocks are bottlenecks (ResNet-50 and deeper)")
    last_stride: int = flag(1, "stride of its last stage", (1, 2))
    audio: str = flag("resnet", "audio encoder: a small ResNet, or VGGish's convolutions",
                      ("resnet", "vggish"))
    audio_width: int = flag(16, "channels of its first stage (VGGish: 64)")
    vision_weights: str = flag("", "published ResNet-152 (none, on scenes: the small encoder)",
                               free_on_resume=True)
    audio_weights: str = flag("", "published VGGish, likewise", free_on_resume=True)

    # Memory and model (3.2 to 3.4)
    C: int = flag(64, "channels of the joint space")
    depth: int = flag(2, "1×1 convolutions with ReLU in each projection to it")
    K: int = flag(3, "past steps in memory, in training (T - 1) and live use")
    K_evaluated: int = flag(1, "past steps in memory in evaluation, where steps are a second apart",
                            free_on_resume=True)
    heads: int = flag(1, "L, attention heads of Eq. (2)")
    memory: str = flag("C+U", "cross-modal and uni-modal memory, uni-modal, or none (Table 2)",
                       ("C+U", "U", "none"))
    similarity: str = flag("cosine", "of Eq. (1): the paper's dot product, or the cosine",
                           ("dot", "cosine"))
    tau: float = flag(0.12, "divisor of the similarity before the softmax (1 in the paper)")
    phi: str = flag("avg", "global pooling of Eqs. (1) and (2)", ("avg", "max"))
    av_memory: str = flag("pre", "cross-modal memory of a step: its x_av before temporal "
                          "attention, or that of the raw features", ("pre", "raw"))

    # Boxes (3.3): nothing of this is trained
    box_map: str = flag("attention", "map of boxes and frames/ metrics: the attention map, or the "
                        "scores before its softmax", BOX_MAPS, True)
    proposals: str = flag("", "published Faster R-CNN: also report its proposals, scored by the "
                          "attention map", free_on_resume=True)
    instances: int = flag(100, "N, proposals of a frame (not in the paper)", free_on_resume=True)
    nms: float = flag(0.5, "IoU above which the box of lower score is removed (not in the paper)",
                      free_on_resume=True)
    area_normalised: bool = flag(False, "divide the score of a box by its area; the plain sum "
                                 "favours large boxes", free_on_resume=True)
    grounded: int = flag(1, "boxes of a frame after that (not in the paper)", free_on_resume=True)

    benchmark: str = flag("", "benchmark to evaluate at the end, instead of scenes: ave-boxes or "
                          "audioset-instrument")
    benchmark_root: str = flag("", "its folder", free_on_resume=True)
    validate_every: int = flag(1, "epochs between validations; the last one is always validated")

    def validate(self) -> None:
        """Raises ValueError if a setting is out of range, or does not fit another."""
        for name in ("scenes", "clip_seconds", "T", "width", "audio_width", "C", "depth", "heads",
                     "encoder_steps", "instances", "grounded", "validate_every"):
            if not getattr(self, name):
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        is_resnet152 = self.blocks == (3, 8, 36, 3) and self.width == 64 and self.bottleneck
        is_vggish = self.audio == "vggish" and self.audio_width == 64
        has_weights = bool(self.vision_weights and self.audio_weights)
        is_ready = self.encoders == "train" or self.data == "scenes" or has_weights
        for is_right, message in (
            (min(self.held_out, self.test_videos, self.video_seconds) >= 2,
             "--held-out, --test-videos and --video-seconds must be at least 2"),
            (self.epochs or self.steps, "--epochs or --steps must not be 0"),
            (0.16 <= self.segment_seconds <= 60, "--segment-seconds must be between 0.16 (one "
             "position of VGGish's map) and 60"),
            (self.image_size % 16 == 0 and self.image_size >= 32,
             f"--image-size {self.image_size} is not a multiple of 16 from 32 up"),
            (self.image_size >= 2**len(self.blocks) * 2 * self.last_stride, f"--image-size "
             f"{self.image_size} gives a map of one position, after --blocks and --last-stride"),
            (bool(self.benchmark) == bool(self.benchmark_root),
             "--benchmark goes with --benchmark-root"),
            (2 <= len(self.blocks) <= 4 and min(self.blocks) >= 1,
             "--blocks are two to four numbers, at least 1 each"),
            (is_ready, f"--encoders frozen on {self.data} needs --vision-weights and "
             "--audio-weights; or --encoders train"),
            (0 <= self.blurred <= 1 and 0 < self.tau < float("inf"),
             "--blurred is between 0 and 1, --tau positive"),
            (is_resnet152 or not self.vision_weights,
             "--vision-weights are of a ResNet-152: --blocks 3 8 36 3 --width 64 --bottleneck"),
            (is_vggish or not self.audio_weights,
             "--audio-weights are VGGish's: --audio vggish --audio-width 64"),
            (0 <= self.nms <= 1 and 0 <= self.confidence <= 1,
             "--nms and --confidence are between 0 and 1"),
        ):
            if not is_right:
                raise ValueError(message)

    @property
    def patch(self) -> tuple[int, int]:
        """Frames and bands of the log-mel patch of a segment: 96 × 64 for 0.96 s."""
        return round(self.segment_seconds * RATE / HOP), BANDS

    @property
    def samples(self) -> int:
        """Samples of a segment: what the frames of its patch cover."""
        return (self.patch[0] - 1) * HOP + WINDOW


TINY = Config()
PAPER = replace(
    TINY, preset="paper", data="ave", epochs=30, batch_size=128, lr=1e-4, schedule="constant",
    image_size=256, augment=True, segment_seconds=0.96, background=False, blocks=(3, 8, 36, 3),
    width=64, bottleneck=True, last_stride=2, audio="vggish", audio_width=64,
    vision_weights="third_party/weights/resnet152-394f9c45.pth",
    audio_weights="third_party/weights/vggish-10086976.pth",
    C=256, similarity="dot", tau=1.0, workers=8)
PRESETS = {"tiny": TINY, "paper": PAPER}
