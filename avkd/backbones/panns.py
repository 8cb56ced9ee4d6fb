"""PANNs with the published key names, for evaluation.

Kong et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition",
TASLP 2020, https://arxiv.org/abs/1912.10211; weights of
https://github.com/qiuqiangkong/audioset_tagging_cnn. SpecAugment, mixup and dropout, which act in
training only, are left out.

B waveforms of n samples, T frames, M mel bins, C channels.
"""
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


def mel_filterbank(rate, window, mels, fmin, fmax):
    """(window // 2 + 1, mels): triangles of area 1 in Hz at equal steps of mel, fmin to fmax.

    Slaney's mel (Auditory Toolbox, 1998):  3/200 Hz to 1000 Hz, above 15 + 27 log_6.4(Hz / 1000)
    """
    def mel(hz):
        return 3 * hz / 200 if hz < 1000 else 15 + 27 * math.log(hz / 1000) / math.log(6.4)

    steps = np.linspace(mel(fmin), mel(fmax), mels + 2)
    edges = np.where(steps < 15, steps * 200 / 3, 1000 * 6.4 ** ((steps - 15) / 27))  # Hz
    low, peak, high = edges[:-2], edges[1:-1], edges[2:]
    bins = np.linspace(0, rate / 2, window // 2 + 1)[:, None]
    rise, fall = (bins - low) / (peak - low), (high - bins) / (high - peak)
    return np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)


def fourier_kernels(window):
    """The Fourier transform of a frame under a periodic Hann window, as kernels of a convolution.

    Its real and imaginary part, each (window // 2 + 1, 1, window)."""
    n = np.arange(window)
    turns = np.arange(window // 2 + 1)[:, None] * n % window / window  # reduced as integers: exact
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / window)
    return (np.cos(2 * np.pi * turns) * hann)[:, None], (-np.sin(2 * np.pi * turns) * hann)[:, None]


class Fixed(nn.Module):
    """Constants that the published file holds, under their names in it."""

    def __init__(self, **constants):
        super().__init__()
        for name, value in constants.items():
            self.register_buffer(name, torch.from_numpy(value).float())


class ConvBlock(nn.Module):
    """Two 3×3 convolutions, average pooling: (B, inputs, T, M) → (B, outputs, T/pool, M/pool)."""

    def __init__(self, inputs, outputs, pool=(2, 2)):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.pool = pool

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.avg_pool2d(x, self.pool)


class WaveBlock(nn.Module):
    """Two convolutions of three samples, the second dilated, and maximum pooling.

    (B, inputs, n) → (B, outputs, n / 4)."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, 3, padding=1, bias=False)
        self.conv2 = nn.Conv1d(outputs, outputs, 3, padding=2, dilation=2, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm1d(outputs), nn.BatchNorm1d(outputs)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.max_pool1d(x, 4)


class Cnn14(nn.Module):
    """Six blocks of two convolutions on a log-mel spectrogram.

    window and hop are in samples, fmin and fmax in Hz, mels at least 32. The blocks are width …
    32·width wide; `embedding_size` is the last width, `min_samples` the shortest input."""

    def __init__(self, sample_rate=32000, window=1024, hop=320, mels=64, fmin=50, fmax=14000,
                 classes=527, width=64):
        super().__init__()
        self.sample_rate, self.hop, self.embedding_size = sample_rate, hop, 32 * width
        self.min_samples = 31 * hop  # 32 frames, of which five poolings leave one
        real, imag = fourier_kernels(window)
        stft = nn.ModuleDict({"conv_real": Fixed(weight=real), "conv_imag": Fixed(weight=imag)})
        self.spectrogram_extractor = nn.ModuleDict({"stft": stft})
        self.logmel_extractor = Fixed(melW=mel_filterbank(sample_rate, window, mels, fmin, fmax))
        self.bn0 = nn.BatchNorm2d(mels)
        self.conv_block1 = ConvBlock(1, width)
        self.conv_block2 = ConvBlock(width, 2 * width)
        self.conv_block3 = ConvBlock(2 * width, 4 * width)
        self.conv_block4 = ConvBlock(4 * width, 8 * width)
        self.conv_block5 = ConvBlock(8 * width, 16 * width)
        self.conv_block6 = ConvBlock(16 * width, 32 * width, pool=(1, 1))
        self.fc1 = nn.Linear(32 * width, 32 * width)
        self.fc_audioset = nn.Linear(32 * width, classes)

    def log_mel(self, waveforms):
        """(B, n) → (B, 1, T, M) in dB, float32, T = 1 + n // hop.

            10 log10( max( |STFT|² · melW, 1e-10 ) ),  frames centred, the ends reflected

        The published file holds the transform as kernels of a convolution, of which the row of
        frequency 0 is the window. The FFT takes a third to a fifth of the convolution's time, and
        never TF32."""
        with torch.autocast(waveforms.device.type, enabled=False):
            window = self.spectrogram_extractor["stft"]["conv_real"].weight[0, 0].float()
            spectrum = torch.stft(waveforms.float(), len(window), self.hop, window=window,
                                  pad_mode="reflect", return_complex=True)
            power = spectrum.real.square() + spectrum.imag.square()  # (B, window // 2 + 1, T)
            mel = power.transpose(1, 2) @ self.logmel_extractor.melW.float()  # (B, T, M)
            return 10 * mel.clamp(min=1e-10).log10()[:, None]

    def stem(self, waveforms, logmel):
        """waveforms (B, n), their log_mel (B, 1, T, M) → the input of block 2, (B, C, T/2, M/2)."""
        x = self.bn0(logmel.transpose(1, 3)).transpose(1, 3)  # each mel bin is a channel
        return self.conv_block1(x)

    def forward(self, waveforms):
        """(B, n) in [-1, 1] at `sample_rate` → a dict of

        logmel (B, 1, T, M) in dB, embedding (B, embedding_size), not negative, clipwise_output
        (B, classes) in [0, 1]. Raises ValueError if n < `min_samples`."""
        if waveforms.shape[-1] < self.min_samples:
            raise ValueError(f"audio of {waveforms.shape[-1]} samples is too short: at least "
                             f"{self.min_samples} are needed")
        logmel = self.log_mel(waveforms)
        x = self.stem(waveforms, logmel)
        for block in (self.conv_block2, self.conv_block3, self.conv_block4, self.conv_block5,
                      self.conv_block6):
            x = block(x)  # at last (B, 32·width, T/32, M/32)
        x = x.mean(3)
        embedding = F.relu(self.fc1(x.amax(2) + x.mean(2)))
        return {"logmel": logmel, "embedding": embedding,
                "clipwise_output": torch.sigmoid(self.fc_audioset(embedding))}


class WavegramLogmelCnn14(Cnn14):
    """Cnn14 whose second block also takes the wavegram, a map of time and learnt frequencies.

    It is made from the waveform. The front end is Cnn14's default: its hop of 320 is the product of
    the wavegram's strides. width is a multiple of 16."""

    def __init__(self, classes=527, width=64):
        super().__init__(classes=classes, width=width)
        self.min_samples = 32 * self.hop  # the wavegram has no frame beyond the last sample
        self.pre_conv0 = nn.Conv1d(1, width, 11, stride=5, padding=5, bias=False)
        self.pre_bn0 = nn.BatchNorm1d(width)
        self.pre_block1 = WaveBlock(width, width)
        self.pre_block2 = WaveBlock(width, 2 * width)
        self.pre_block3 = WaveBlock(2 * width, 2 * width)
        self.pre_block4 = ConvBlock(width // 16, width, pool=(2, 1))
        self.conv_block2 = ConvBlock(2 * width, 2 * width)

    def stem(self, waveforms, logmel):
        """Both maps, (B, 2·C, T/2, M/2): the log-mel's channels, then the wavegram's."""
        a = F.relu(self.pre_bn0(self.pre_conv0(waveforms[:, None])))  # (B, C, n / 5)
        a = self.pre_block3(self.pre_block2(self.pre_block1(a)))  # (B, 2·C, n / 320)
        a = a.unflatten(1, (-1, 32)).transpose(2, 3)  # (B, C/16, n/320, 32): 32 frequencies
        a = self.pre_block4(a)  # (B, C, n/640, 32)
        x = super().stem(waveforms, logmel)
        return torch.cat((x[:, :, :a.shape[2]], a), 1)  # the log-mel may have one frame more


def cnn14(**options):
    """Cnn14_mAP=0.431.pth: 32 kHz. options: those of Cnn14, here and below."""
    return Cnn14(**options)


def cnn14_16k(**options):
    """Cnn14_16k_mAP=0.438.pth: 16 kHz."""
    return Cnn14(sample_rate=16000, window=512, hop=160, fmax=8000, **options)


def wavegram_logmel_cnn14(**options):
    """Wavegram_Logmel_Cnn14_mAP=0.439.pth: 32 kHz. options: classes, width."""
    return WavegramLogmelCnn14(**options)
