"""What is done to images before a network's first layer, once for all subnets."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from searchkit.nas.models.heads.inputs import Prepared
from searchkit.nas.models.network import build
from searchkit.nas.space.shapes import InputShape
from searchkit.nas.tasks import detection
from searchkit.nas.tasks.table import TASKS
from searchkit.nas.train.bench import Batches
from searchkit.nas.train.evaluate import calibrate
from searchkit.nas.train.sections import Data, Split
from tests.nas.models.test_ssd_nets import SSDLITE, large
from tests.support.detectors import equal, make
from tests.support.nas import CPU

pytestmark = pytest.mark.usefixtures("one_thread")


def network(family: str) -> Any:
    torch.manual_seed(0)
    return build(SSDLITE, large(2), min_size=320) if family == "SSD" else make(family)[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["SSD", "RetinaNet as in BigNAS", "bottleneck, bn"])
def test_prepared_images_are_those_that_a_network_prepares(family: str, precision: str) -> None:
    net, section = network(family).eval(), Data(name="t", train=Split(annotations="a", images="b"))
    random = torch.Generator().manual_seed(0)
    sizes = [(40, 60), (64, 64), (90, 50), (50, 90)]
    images = [torch.randint(0, 256, (3, *hw), generator=random, dtype=torch.uint8) for hw in sizes]
    raw = [(images[i : i + 2], [{"image_id": torch.tensor(k)} for k in (i, i + 1)]) for i in (0, 2)]
    for room_mb in (100.0, 1e-9):  # of which the second is full with the first batch
        batches = Batches(TASKS["det"], None, 2, 0, True, room_mb, kept={None: raw})
        shapes: tuple[InputShape, ...] = (64, (64, 96))
        for shape in (*shapes, shapes[0]):
            detection.set_scale(net, shape, section)
            ready = [*batches.prepared_for(net, shape, CPU)]
            found, found_ready = (detection.predict(net, each, CPU, precision)[0] for each in (raw, ready))
            assert all(equal([found[i]], [found_ready[i]]) for i in range(4))
            statistics = []
            for each in (raw, ready):
                private = copy.deepcopy(net)
                calibrate(private, map(detection.images_of, each), CPU, precision, task=TASKS["det"])
                statistics.append(dict(private.named_buffers()))
            assert equal(*statistics)
        made = [isinstance(images, Prepared) for kept in batches.prepared.values() for images, _ in kept]
        assert made == ([True] * 4 if room_mb > 1 else [True, False, False, False])
