"""A measure of one's own: how long a chain of layers takes on a device, each as long as its sums or its bytes take.

task: {measures: {call: "roofline:latency", given: {device: edge.json, edge: 64}}, constraints: ["ms <= 4"]}
"""

import json


def latency(device, edge):
    """device: a file with {"macs_per_s": …, "bytes_per_s": …}. It is read once, when the search begins."""
    with open(device, encoding="utf-8") as file:
        limits = json.load(file)

    def measure(values):
        seconds, memory, width, size = 0.0, 0, 3, edge
        for k in range(values["layers"]):
            out = values["width"] * 2 ** min(k, 2)
            macs, moved = width * out * 9 * size**2, 4 * (size**2 * (width + out) + width * out * 9)
            seconds += max(macs / limits["macs_per_s"], moved / limits["bytes_per_s"])
            memory, width, size = max(memory, moved), out, max(1, size // 2)
        return {"ms": 1000 * seconds, "peak_kb": memory / 1000}

    return measure
