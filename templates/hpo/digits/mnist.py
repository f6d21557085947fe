"""Trains a small convolutional network on handwritten digits: the 1,797 real scans of 8x8 pixels that scikit-learn has,
or MNIST's four idx files from a folder. An ordinary script: it takes its settings as flags, and runs by hand as well.

    python mnist.py --epochs 5 --lr 1.0 --batch-size 64
    python mnist.py --data /path/to/folder/with/train-images-idx3-ubyte.gz
"""

import argparse
import gzip
import os
import struct
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

try:
    from searchkit import report  # hands one epoch's numbers to search-run; by hand, outside a job, it prints them
except ImportError:

    def report(mapping, *, step):
        pass


def read_idx(path):
    """The array in one of MNIST's idx files, packed or not: big-endian header (0, 0, type, dimensions), then bytes."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        dimensions = struct.unpack(">HBB", file.read(4))[2]
        shape = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
        return np.frombuffer(file.read(), dtype=np.uint8).reshape(shape)


def load_mnist(folder):
    def find(name):
        for path in (folder / f"{name}.gz", folder / name):
            if path.exists():
                return read_idx(path)
        raise SystemExit(f"--data: {folder} has no {name}.gz (nor {name})")

    arrays = [find(f"{part}-{kind}-ubyte") for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return [array / np.float32(255) if array.ndim == 3 else array for array in arrays]


def load_digits():
    """scikit-learn's scans, of which the last fifth is the test set: neighbours are by one writer, so no shuffling."""
    from sklearn import datasets

    scans = datasets.load_digits()
    images, labels = scans.images.astype(np.float32) / 16, scans.target
    cut = len(images) * 4 // 5
    return images[:cut], labels[:cut], images[cut:], labels[cut:]


def build_model():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(4),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def shifted(images):
    """Each image moved by at most one pixel either way: N x 1 x H x W in and out."""
    height, width = images.shape[2:]
    top, left = torch.randint(0, 3, (2,)).tolist()
    return F.pad(images, (1, 1, 1, 1))[:, :, top : top + height, left : left + width]


def train_epoch(model, optimizer, images, labels, args):
    """The mean loss over one epoch, which goes over the training set --passes times."""
    model.train()
    losses = []
    for _ in range(args.passes):
        for batch in torch.randperm(len(images), device=images.device).split(args.batch_size):
            loss = F.cross_entropy(model(shifted(images[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


@torch.inference_mode()
def test(model, images, labels):
    """The mean loss and the accuracy in percent."""
    model.eval()
    scores = torch.cat([model(part) for part in images.split(1000)])
    return F.cross_entropy(scores, labels).item(), 100 * (scores.argmax(1) == labels).float().mean().item()


def parse_args():
    parser = argparse.ArgumentParser(description="Train a small network on handwritten digits.")
    parser.add_argument("--lr", type=float, default=1.0, help="learning rate of Adadelta")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--gamma", type=float, default=0.7, help="factor on the learning rate after each epoch")
    parser.add_argument("--passes", type=int, help="passes over the training set per epoch (default 20; 1 with --data)")
    parser.add_argument("--data", type=Path, help="folder with MNIST's idx files (default: scikit-learn's digits)")
    parser.add_argument("--seed", type=int, default=int(os.environ.get("SEARCHKIT_SEED", "1")))
    parser.add_argument("--pavi", action="store_true", help="report each epoch's Loss, Test Loss and Test Acc")
    args = parser.parse_args()
    if args.passes is None:
        args.passes = 1 if args.data else 20  # the scans are few, and every pass shifts them anew
    return args


def main():
    args = parse_args()
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arrays = load_mnist(args.data) if args.data else load_digits()
    train_images, train_labels, test_images, test_labels = (
        torch.from_numpy(array[:, None].copy() if array.ndim == 3 else array.astype(np.int64)).to(device)
        for array in arrays
    )
    model = build_model().to(device)
    optimizer = torch.optim.Adadelta(model.parameters(), lr=args.lr)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=args.gamma)
    for epoch in range(1, args.epochs + 1):
        loss = train_epoch(model, optimizer, train_images, train_labels, args)
        test_loss, accuracy = test(model, test_images, test_labels)
        schedule.step()
        print(f"epoch {epoch}: loss {loss:.4f}, test loss {test_loss:.4f}, test accuracy {accuracy:.2f} %", flush=True)
        if args.pavi:
            scalars = {"Test Acc": accuracy, "Test Loss": test_loss, "Loss": loss}
            report({name: round(value, 4) for name, value in scalars.items()}, step=epoch)
    torch.save(model.state_dict(), "mnist.pt")  # a relative path: every job has a working folder of its own


if __name__ == "__main__":
    main()
