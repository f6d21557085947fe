"""Runs before the training: says how long it will take, from the job's own arguments."""

import json

from searchkit import params

SECONDS_PER_EPOCH = 1.5  # measured once, on one core of a small server

epochs = params(epochs=5)["epochs"]
print(json.dumps({"__benchmark_total_time(h)": [round(epochs * SECONDS_PER_EPOCH / 3600, 5), f"{epochs} epochs"]}))
