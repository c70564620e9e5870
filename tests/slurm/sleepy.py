"""A network of one's own that takes its time, and leaves the core to others meanwhile."""

import os
import time

from mcl_lab.networks.resnet import ResNet


class SleepyResNet(ResNet):
    """Each forward pass of training takes ASLEEP seconds longer."""

    def __init__(self, num_classes: int, *, block: str, blocks: list[int], widths: list[int]):
        super().__init__(num_classes, block=block, blocks=blocks, widths=widths)

    def taps(self, images):
        time.sleep(float(os.environ["ASLEEP"]))
        return super().taps(images)
