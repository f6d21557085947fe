"""Data sets in other projects' formats, read into one neutral form: `table.read(path)`.

Its modules are imported by their names; none needs torch.
"""
