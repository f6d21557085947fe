"""A static classifier as an ONNX graph, from images to the scores of its classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from searchkit.nas.graph.boxes import IMAGE
from searchkit.nas.graph.graph import Graph
from searchkit.nas.graph.trace import trace


def write(g: Graph, net: Any) -> None:
    """The whole classifier: images of 8 bits (N, 3, H, W) as `image`, scores (N, classes) without a softmax as
    `scores`."""
    image = g.input(IMAGE, np.uint8, ["images", 3, "height", "width"])
    (scores,) = trace(net, image.to(np.float32) / 255.0, batch="images")
    g.predictions += [scores.name]
    g.output("scores", scores, ["images", net.fc.out_features])
