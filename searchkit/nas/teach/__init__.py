"""Teachers that a config names: opened, held against the networks that learn of them, run beside them."""
