"""avkd's configuration: `tiny`, the embedded default, and `paper`, sections 3.4, 3.6 and 4.1."""
from dataclasses import dataclass, replace

from common.training import RunConfig, flag

FREE = {"free_on_resume": True}
HINTS = ("attention", "backbone", "encoder", "decoder")
AUDIO_TEACHERS = ("wavegram_logmel_cnn14", "cnn14")
OBJECT_MODELS = {  # name → whether its blocks are bottlenecks, blocks of each stage
    "resnet18": (False, (2, 2, 2, 2)), "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)), "resnet101": (True, (3, 4, 23, 3))}
EVALUATION = ("object_weights", "object_model", "detr", "detr_size", "og_weights",
              "og_detr_weights")  # the fields that evaluate and localize can change
SMALL = "small"  # of --vision-weights: the small classifier of images


@dataclass(frozen=True)
class Config(RunConfig):
    data: str = flag("scenes", "image–audio pairs, without labels",
                     ("scenes", "vggsound", "flickr-soundnet"))
    ids: str = flag("", "file with the ids to train on, as flickr_10k.txt (none: all)", **FREE)
    exclude_test: str = flag("", "benchmark, as vggss, whose test samples are left out of them")
    epochs: int = flag(8, "passes over the pairs (3.6)")
    batch_size: int = flag(32, "k of Eqs. (1) to (3), pairs a step, of all processes (3.6)", low=2)
    lr: float = flag(2e-3, "learning rate of Adam (3.6)")
    schedule: str = flag("cosine", "of lr, with half an epoch of warm-up", ("constant", "cosine"))
    repeats: int = flag(1, "trainings with the seeds from --seed on, then mean ± std", **FREE)

    # Inputs (3.6)
    scenes: int = flag(5000, "training pairs of scenes")
    lone: float = flag(0.5, "share of training scenes of one object; the others have a silent one")
    clutter: float = flag(0.7, "in scenes, how loud another object and noise are beside the source")
    held_out: int = flag(500, "pairs for validation; samples of each test set of scenes", low=2)
    image_size: int = flag(64, "side of the image in pixels")
    sample_rate: int = flag(8000, "audio samples a second", low=1000)
    channel: str = flag("mean", "of stereo audio: the mean of both, or left", ("mean", "left"))
    seconds: float = flag(1.5, "length to which audio is repeated or cut (0: the whole file)")
    crop: float = flag(1.0, "seconds in its middle that the model takes")
    window: int = flag(256, "samples in a frame of the spectrogram", low=16)
    hop: int = flag(256, "samples from frame to frame (overlap 274 of 512: 238)")
    augment: bool = flag(True, "crop and mirror images at random, and visual hints with them")

    # Students (3.3, 3.6)
    blocks: tuple[int, ...] = flag((1, 1, 1), "blocks a stage, both ResNets (18: 2 2 2 2)", high=99)
    bottleneck: bool = flag(False, "their blocks are those of ResNet-50 and deeper")
    width: int = flag(16, "channels of their first stage, doubled at each further one")
    last_stride: int = flag(1, "stride of the visual ResNet's last stage", (1, 2))
    channels: int = flag(128, "c, width of the shared space; that of the hints, see teachers.py")
    vision_weights: str = flag(SMALL, "published ResNet to start F_v from (none: scratch; small: "
                               "the small classifier of scenes)", **FREE)

    # Teachers (3.4, Table 2)
    teach_image: bool = flag(True, "use the visual teacher: L_v, Eq. (2)")
    teach_audio: bool = flag(True, "use the audio teacher: L_a, Eq. (3)")
    hints: str = flag("", "folder of `python -m avkd.teachers`; scenes make their own", **FREE)
    visual_hint: str = flag("attention", "what of DETR is e_v, see teachers.py", HINTS)
    teacher_size: int = flag(800, "side of DETR's image (features: averaged to F_v's map)", low=32)
    audio_teacher: str = flag(AUDIO_TEACHERS[0], "which of PANNs gives e_a", AUDIO_TEACHERS)
    teacher_steps: int = flag(600, "training steps of each small network of scenes (small.py)")
    teacher_clips: int = flag(6000, "images, or audio clips, that each of them is trained on")

    # Losses (3.3, 3.4)
    tau: float = flag(0.1, "temperature τ of Eq. (1) (not in the paper)")
    alpha1: float = flag(1.0, "α1, weight of L_S, Eq. (1)")
    alpha2: float = flag(64.0, "α2, weight of L_a, Eq. (3)")
    alpha3: float = flag(750.0, "α3, weight of L_v, Eq. (2)")
    visual_norm: str = flag("map", "what Eq. (2) normalises of features: a whole map, or each "
                            "position (attention: always each position)", ("map", "position"))
    chunk: int = flag(128, "images whose k maps of Eq. (1) are in memory at a time")

    validate_every: int = flag(4, "epochs between validations; the last epoch always has one")

    # Evaluation (3.5, 4.1)
    benchmark: tuple[str, ...] = flag((), "test sets at the end, as flickr vggss (none: scenes)")
    benchmark_root: tuple[str, ...] = flag((), "the folder of each", **FREE)
    protocol: str = flag("ezvsl", "how heatmaps become masks", ("ezvsl", "sslalign"))
    object_weights: str = flag("", "file of a published ResNet, for OG-AVC", **FREE)
    object_model: str = flag("resnet18", "which ResNet that is (4.5)", tuple(OBJECT_MODELS))
    detr: str = flag("", "file of the published DETR-R50, for OG-AVC-DETR", **FREE)
    detr_size: int = flag(800, "side of the image that it sees", low=32)
    og_weights: tuple[float, ...] = flag((0.75, 0.25), "OG-AVC: weights of AVC, objects (3.5)")
    og_detr_weights: tuple[float, ...] = flag((1.0, 1.0, 1.0), "OG-AVC-DETR: of AVC, objects, DETR")

    def rules(self) -> dict:
        """Messages → whether the settings are as they say. See `checked`."""
        is_file = self.vision_weights not in ("", SMALL)
        are_weights = [len(x) == n and min(x) >= 0 and x[0] + x[1] > 0 for x, n in
                       ((self.og_weights, 2), (self.og_detr_weights, 3))]
        is_crop_valid = (self.crop <= (self.seconds or self.crop)
                         and self.window <= self.crop * self.sample_rate)
        return {
            "--tau must be positive": self.tau > 0,
            f"--crop {self.crop:g} must be at most --seconds {self.seconds:g} and hold one "
            f"--window {self.window}": is_crop_valid,
            f"--image-size {self.image_size} is not a multiple of 16 from 32 up":
                self.image_size % 16 == 0 and self.image_size >= 32,
            "--hints must name a folder that `python -m avkd.teachers` has made, or is to make, if "
            "--data is not scenes, or --no-teach-image --no-teach-audio":
                self.data == "scenes" or self.hints or not (self.teach_image or self.teach_audio),
            "--benchmark and --benchmark-root go together, a folder for each test set":
                len(self.benchmark) == len(self.benchmark_root),
            "--detr goes with --object-weights": self.object_weights or not self.detr,
            "--og-weights are two numbers, --og-detr-weights three, from 0 up, and those of AVC "
            "and objects not both 0": all(are_weights),
            "--blocks are two to four numbers": 2 <= len(self.blocks) <= 4,
            "--vision-weights are of a published ResNet: --width 64 and, of ResNet-18, --blocks "
            "2 2 2 2": not is_file or (self.width == 64 and len(self.blocks) == 4),
            "--visual-hint of scenes is attention or backbone":
                self.data != "scenes" or self.visual_hint in HINTS[:2]}

    @property
    def side(self) -> int:
        """h = w of F_v's map."""
        return -(-self.image_size // (2 ** len(self.blocks) * self.last_stride))


TINY = Config()
PAPER = replace(
    TINY, preset="paper", data="flickr-soundnet", epochs=100, batch_size=128, lr=1e-4,
    schedule="constant", vision_weights="", image_size=224, sample_rate=22050, seconds=0.0,
    crop=3.0, window=512, hop=238, blocks=(2, 2, 2, 2), width=64, last_stride=2, channels=2048,
    og_weights=(0.6, 0.4), hints="hints", tau=0.03, alpha2=1000.0, alpha3=100000.0, workers=8)
PRESETS = {"tiny": TINY, "paper": PAPER}
