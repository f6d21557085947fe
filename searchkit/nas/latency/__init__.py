"""Tables of times: the rows of a space measured on a device, and their sums held against whole networks."""
