"""stmnet's configuration: `tiny`, the embedded default, and `paper`, sections 3 and 4.2."""
from dataclasses import dataclass, replace

from common.training import RunConfig, flag

from .backbones.vggish import HOP, RATE, WINDOW

FREE = {"free_on_resume": True}
TRAINED = ("none", "audio", "audio and vision")
BOX_MAPS = ("attention", "scores")


@dataclass(frozen=True)
class Config(RunConfig):
    data: str = flag("scenes", "what to train on", ("scenes", "ave", "audioset-instrument"))
    train_list: str = flag("trainSet.txt", "of videos, in ROOT/metadata or a path (AVE's)", **FREE)
    held_out_list: str = flag("valSet.txt", "likewise (none: --held-out of --train-list)", **FREE)
    exclude_list: str = flag("", "videos to leave out of training, as testSet.txt", **FREE)
    epochs: int = flag(16, "passes over the videos, one second of each (4.2)")
    batch_size: int = flag(32, "clips a step, over all processes (4.2)")
    lr: float = flag(4e-3, "learning rate of Adam (4.2: all at 1e-4, authors' code: 1e-3)")
    lr_encoders: float = flag(3e-4, "that of encoders that are trained")
    schedule: str = flag("cosine", "of lr, with half an epoch of warm-up", ("constant", "cosine"))

    # Inputs (4.2)
    scenes: int = flag(1000, "training videos of scenes")
    clip_seconds: int = flag(4, "their length; a clip is one second of them")
    video_seconds: int = flag(5, "length of test videos of scenes", low=2)
    blurred: float = flag(0.2, "share of the frames of scenes that are out of focus")
    noisy: float = flag(0.0, "share of half seconds of scenes in which noise covers the audio")
    occluded: float = flag(0.0, "share of half seconds of scenes in which a bar covers the image")
    twins: bool = flag(False, "scenes have a second, silent object of the sounding class")
    held_out: int = flag(100, "validation videos, of scenes or of --train-list", low=2)
    test_videos: int = flag(200, "videos of each test set of scenes", low=2, **FREE)
    T: int = flag(4, "frames of a training clip, all within one second")
    image_size: int = flag(64, "side of a frame in pixels")
    segment_seconds: float = flag(0.25, "audio around a frame (not in the paper; VGGish's is 0.96)")
    augment: bool = flag(False, "resize frames by 1.1; crop and mirror all of a clip alike")
    background: bool = flag(True, "a class for steps at which nothing sounds (Figure 6)")
    confidence: float = flag(0.5, "below it a frame is background, with --no-background", **FREE)

    # Encoders (3.1, 4.2)
    trained_encoders: str = flag("none", "the others are frozen (not in the paper)", TRAINED)
    encoder_steps: int = flag(2000, "steps of the small visual encoder's first task, see small.py")
    blocks: tuple[int, ...] = flag((1, 1, 1), "of the visual ResNet (152: 3 8 36 3)", high=99)
    width: int = flag(16, "channels of its first stage, doubled at each further one")
    bottleneck: bool = flag(False, "its blocks are bottlenecks (ResNet-50 and deeper)")
    last_stride: int = flag(1, "stride of its last stage", (1, 2))
    audio: str = flag("resnet", "audio encoder: small ResNet or VGGish", ("resnet", "vggish"))
    audio_width: int = flag(16, "channels of its first stage (VGGish: 64)")
    vision_weights: str = flag("", "published ResNet-152 (none, on scenes: see small.py)", **FREE)
    audio_weights: str = flag("", "published VGGish, likewise", **FREE)

    # Memory and model (3.2 to 3.4)
    C: int = flag(64, "channels of the joint space")
    depth_v: int = flag(3, "1×1 convolutions of the visual projection to it", high=99)
    depth_a: int = flag(2, "those of the audio projection", high=99)
    memory_seconds: float = flag(0.75, "reach of memory: K steps of about 1 / T s")
    heads: int = flag(1, "L, attention heads of Eq. (2)")
    memory: str = flag("C+U", "cross-modal and uni-modal, or less (Table 2)", ("C+U", "U", "none"))
    similarity: str = flag("cosine", "of Eq. (1): cosine as in the authors' code, or dot",
                           ("cosine", "dot"))
    tau: float = flag(0.3, "temperature of Eq. (1), 1 in the paper; not τ of cIoU (4.2)")

    # Boxes (3.3): nothing of this is trained
    box_map: str = flag("attention", "map of the boxes: α, or its exponents", BOX_MAPS, **FREE)
    proposals: str = flag("", "published Faster R-CNN, whose boxes are scored too", **FREE)
    instances: int = flag(100, "N, proposals of a frame (not in the paper)", **FREE)
    nms: float = flag(0.5, "IoU above which the lower box is removed (not in the paper)", **FREE)
    grounded: int = flag(1, "boxes of a frame after that (not in the paper)", **FREE)

    benchmark: str = flag("", "instead of scenes: ave-stm, audioset-instrument-stm, …")
    benchmark_root: str = flag("", "its folder", **FREE)
    validate_every: int = flag(1, "epochs between validations; the last one is always validated")

    def rules(self) -> dict:
        """Messages → whether the settings are as they say. See `checked`."""
        is_resnet152 = self.blocks == (3, 8, 36, 3) and self.width == 64 and self.bottleneck
        has_weights = all(kind in self.trained_encoders or getattr(self, f"{kind}_weights")
                          for kind in ("audio", "vision"))
        return {
            "--segment-seconds must be between 0.16 and 60": 0.16 <= self.segment_seconds <= 60,
            "--image-size must be a multiple of 16 from 32 up":
                self.image_size % 16 == 0 and self.image_size >= 32,
            "--image-size leaves a map of one position, after --blocks and --last-stride":
                self.image_size >= 2**len(self.blocks) * 2 * self.last_stride,
            "--benchmark goes with --benchmark-root":
                bool(self.benchmark) == bool(self.benchmark_root),
            "--blocks are two to four numbers": 2 <= len(self.blocks) <= 4,
            "files need --vision-weights and --audio-weights, or --trained-encoders":
                self.data == "scenes" or has_weights,
            "--blurred, --noisy, --occluded, --nms and --confidence are between 0 and 1":
                max(self.blurred, self.noisy, self.occluded, self.nms, self.confidence) <= 1,
            "--tau must be positive": 0 < self.tau < float("inf"),
            "--vision-weights need --blocks 3 8 36 3 --width 64 --bottleneck":
                is_resnet152 or not self.vision_weights,
            "--audio-weights need --audio vggish --audio-width 64":
                (self.audio, self.audio_width) == ("vggish", 64) or not self.audio_weights}

    @property
    def K(self) -> int:
        """Past steps in memory in training, where steps are 1 / T s apart."""
        return self.memory_at(self.T)[1]

    def memory_at(self, fps: float) -> tuple[int, int]:
        """Frames a second → stride, K: memory has K steps, each `stride` frames before the next.

        Steps are as many frames apart as fit into 1 / T s, but at least one, and reach back by
        memory_seconds at most."""
        stride = max(1, int(fps / self.T + 1e-6))
        return stride, int(self.memory_seconds * fps / stride + 1e-6)

    @property
    def samples(self) -> int:
        """n, samples of a segment: what the frames of its log-mel cover."""
        return (round(self.segment_seconds * RATE / HOP) - 1) * HOP + WINDOW


TINY = Config()
PAPER = replace(
    TINY, preset="paper", data="ave", epochs=30, batch_size=128, lr=1e-3, schedule="constant",
    image_size=256, augment=True, background=False, trained_encoders="audio", blocks=(3, 8, 36, 3),
    width=64, bottleneck=True, last_stride=2, audio="vggish", audio_width=64, C=256, tau=1.0,
    vision_weights="third_party/weights/resnet152-394f9c45.pth", workers=8,
    audio_weights="third_party/weights/vggish-10086976.pth")
PRESETS = {"tiny": TINY, "paper": PAPER}
