"""A small multi-flow model in which everything reaches everything, and data for it."""

import torch
from torch.nn.functional import normalize

from robustmdiff.data.modality import Modality
from robustmdiff.data.task import Task
from robustmdiff.generation.flow_training import FlowData
from robustmdiff.generation.multi_flow import MultiFlow

TASK = Task(
    (
        Modality("xray", "image", shape=(1, 16, 16)),
        Modality("ct", "image", shape=(1, 16, 16)),
        Modality("mri", "image", shape=(1, 16, 16)),
        Modality("report", "text"),
    ),
    ("a", "b"),
    (0.5, 0.5),
)
SHAPES = {"xray": (5,), "ct": (5,), "mri": (4, 4, 6), "report": (3,)}
D = 7


def small_model(shapes=SHAPES, process="straight") -> MultiFlow:
    torch.manual_seed(0)
    model = MultiFlow(TASK, shapes, D, process)
    for name, parameter in model.named_parameters():  # what begins at 0 would hide what is wrong
        if name.endswith("weight") and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def small_data(n: int) -> FlowData:
    g = torch.Generator().manual_seed(1)
    presence = {name: torch.rand(n, generator=g) > 0.3 for name in SHAPES}
    latents = {name: torch.randn(n, *shape, generator=g) for name, shape in SHAPES.items()}
    m = torch.stack(list(presence.values()), dim=1)
    h = normalize(torch.randn(n, len(SHAPES), D, generator=g), dim=2) * m[..., None]
    return FlowData(latents, presence, h, m)
