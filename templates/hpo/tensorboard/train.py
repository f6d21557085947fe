"""Trains a two-layer network on scikit-learn's handwritten digits and logs to TensorBoard.

It knows nothing of searchkit. By hand: python train.py --lr 0.01 --hidden 64 && tensorboard --logdir runs
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter

parser = argparse.ArgumentParser(description="Train a two-layer network on handwritten digits.")
parser.add_argument("--lr", type=float, default=0.01, help="learning rate of Adam")
parser.add_argument("--hidden", type=int, default=64, help="units of the hidden layer")
parser.add_argument("--epochs", type=int, default=10)
args = parser.parse_args()

torch.manual_seed(0)
pixels, targets = load_digits(return_X_y=True)
images, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(targets)
cut = len(images) * 4 // 5  # neighbours are by one writer, so the last fifth is other people's handwriting
model = nn.Sequential(nn.Linear(64, args.hidden), nn.ReLU(), nn.Linear(args.hidden, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
with SummaryWriter("runs") as writer:
    for epoch in range(1, args.epochs + 1):
        for batch in torch.randperm(cut).split(64):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracy = (model(images[cut:]).argmax(1) == labels[cut:]).float().mean()
        writer.add_scalar("loss/train", loss, epoch)
        writer.add_scalar("accuracy/test", accuracy, epoch)
