"""Trains a small network on scikit-learn's scans of digits, one trial after another while it is asked for more.

By hand it trains once with the defaults below: python train.py
"""

import warnings

from sklearn import datasets
from sklearn.neural_network import MLPClassifier

import searchkit

DEFAULTS = {"lr": 1e-3, "width": 32, "activation": "relu", "solver": "adam", "momentum": 0.9}
EPOCHS = 27

images, labels = datasets.load_digits(return_X_y=True)
images = images / 16.0
split = len(images) * 4 // 5  # neighbours are by one writer, so no shuffling

for trial in searchkit.trials(**DEFAULTS):
    with trial, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        p = trial.params
        net = MLPClassifier(
            (p["width"],),
            activation=p["activation"],
            solver=p["solver"],
            learning_rate_init=p["lr"],
            momentum=p["momentum"],
            random_state=0,
        )
        for epoch in range(1, EPOCHS + 1):
            net.partial_fit(images[:split], labels[:split], classes=range(10))
            trial.report(accuracy=net.score(images[split:], labels[split:]), loss=net.loss_, step=epoch)
