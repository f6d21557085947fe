"""Trains a two-layer network on scikit-learn's handwritten digits, in as many processes as torchrun starts.

torchrun --nproc-per-node 2 train.py --lr 0.1 --batch-size 64
"""

import argparse

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # see below
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from searchkit import report


def train(lr, batch_size, epochs):
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)  # the same on every process, so that all of them shuffle alike
    pixels, targets = load_digits(return_X_y=True)
    images, labels = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(targets)
    cut = len(images) * 4 // 5  # neighbours are by one writer, so the last fifth is other people's handwriting
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for epoch in range(1, epochs + 1):
        for batch in torch.randperm(cut)[: cut // batch_size * batch_size].split(batch_size):
            mine = batch[rank::world]
            loss = F.cross_entropy(model(images[mine]), labels[mine])
            optimizer.zero_grad()
            loss.backward()  # averages the gradients over the processes
            optimizer.step()
        with torch.inference_mode():
            accuracy = (model.module(images[cut:]).argmax(1) == labels[cut:]).float().mean()
        report(accuracy=accuracy, loss=loss, step=epoch)  # every process may call it; the first one's numbers count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train a two-layer network on handwritten digits, distributed.")
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate of SGD")
    parser.add_argument("--batch-size", type=int, default=64, help="over all processes")
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    # torch.distributed.nn.functional keeps hold of the process group that is there when it is first loaded, which an
    # optimizer may do. Loaded before, as above, it lets gloo's threads end here and not while Python itself is ending:
    # then one process in ten aborts ("terminate called without an active exception", seen with PyTorch 2.13).
    dist.init_process_group("gloo")
    train(args.lr, args.batch_size, args.epochs)
    dist.destroy_process_group()
