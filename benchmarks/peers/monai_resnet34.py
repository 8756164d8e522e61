"""MONAI as in `monai`, with its U-Net that has a resnet34 encoder, like those of the other sides."""

import torch
from monai.networks.nets import FlexibleUNet

from benchmarks.peers import monai
from benchmarks.peers.common import Curve, Task, main


def build() -> torch.nn.Module:
    return FlexibleUNet(in_channels=1, out_channels=1, backbone="resnet34", spatial_dims=2)


def train(task: Task, curve: Curve) -> None:
    monai.train(task, curve, build)


if __name__ == "__main__":
    main(train)
