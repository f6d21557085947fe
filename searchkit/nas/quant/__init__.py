"""Networks of 8 bits: ranges of activations, files with rounded layers, which layers stay float, training with
roundings."""
