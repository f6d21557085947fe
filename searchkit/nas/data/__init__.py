"""Data: COCO and labelled sets, augmentation, loaders whose batches depend on (seed, step) alone, scores, toys.

Its modules are imported by their names: those that make and read files need no torch.
"""
