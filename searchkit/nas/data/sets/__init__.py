"""What is done with a whole data set before a training: checked, divided, drawn.

Its modules are imported by their names; none needs torch.
"""
