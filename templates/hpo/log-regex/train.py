"""Trains a linear classifier on scikit-learn's handwritten digits and prints one line per epoch.

It knows nothing of searchkit. By hand: python train.py --alpha 1e-4 --eta0 0.01
"""

import argparse

import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import hinge_loss

parser = argparse.ArgumentParser(description="Train a linear classifier on handwritten digits.")
parser.add_argument("--alpha", type=float, default=1e-4, help="strength of the regularization")
parser.add_argument("--eta0", type=float, default=0.01, help="learning rate")
parser.add_argument("--epochs", type=int, default=10)
args = parser.parse_args()

images, labels = load_digits(return_X_y=True)
images /= 16
cut = len(images) * 4 // 5  # neighbours are by one writer, so the last fifth is other people's handwriting
model = SGDClassifier(alpha=args.alpha, learning_rate="constant", eta0=args.eta0, random_state=0)
for epoch in range(1, args.epochs + 1):
    model.partial_fit(images[:cut], labels[:cut], classes=np.arange(10))
    accuracy = model.score(images[cut:], labels[cut:])
    loss = hinge_loss(labels[cut:], model.decision_function(images[cut:]))
    print(f"epoch {epoch}: hinge loss {loss:.4g}, accuracy {accuracy:.4f}", flush=True)
