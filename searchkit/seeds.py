"""Seeds and generators, each a function of what it is for: (seed, step), (seed, index of an ask), a name …

So nothing random needs to be saved, whoever goes on after a kill draws what the killed one would have drawn, and ranks
agree without talking. What these give is fixed for good: every search and training made before depends on it.
"""

from __future__ import annotations

import random


def rng_of(*parts: object) -> random.Random:
    """A generator that is a function of its parts, such as a seed, a name, a step."""
    return random.Random("/".join(map(str, parts)))


def step_seed(*parts: object) -> int:
    """A seed in [0, 2^63) that is a function of its parts, for a generator of another library."""
    return _first_63_bits("/".join(map(str, parts)))


def sample_seed(*parts: int) -> int:
    """A seed in [0, 2^63) that depends on all of these numbers; near ones give seeds that have nothing in common."""
    return _first_63_bits(repr(parts))


def ask_seed(seed: int, i: int, retry: int = 0) -> int:
    """A seed of 32 bits for the i-th ask of a search, and for its `retry`-th repetition."""
    import hashlib  # only here: it loads OpenSSL, which costs a start-up

    return int.from_bytes(hashlib.blake2b(f"{seed} {i} {retry}".encode(), digest_size=4).digest(), "big")


def rng_within(seed: int, purpose: str) -> random.Random:
    """A generator for one purpose within an ask, `seed` being that of the ask."""
    return random.Random(f"{purpose} {seed}")


def _first_63_bits(text: str) -> int:
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
