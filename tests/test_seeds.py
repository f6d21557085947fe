"""Seeds are fixed for good: what goes on under another version draws what it would have drawn."""

from __future__ import annotations

from searchkit.seeds import ask_seed, rng_of, rng_within, sample_seed, step_seed


def test_numbers_of_before() -> None:
    """As the places that made their own seeds once gave them."""
    assert [ask_seed(0, 0), ask_seed(7, 3, 2), ask_seed(2**40, 10_000)] == [2508797389, 217370246, 1215720221]
    assert [sample_seed(0), sample_seed(5, 0, 3), sample_seed(1, 2, 3, -4)] == [
        5254295370254170289,
        1273804312568016611,
        2047208177316784674,
    ]
    assert [step_seed(0, "sampling", 0, 0, 0), step_seed(3, "sampling", 17, 2, 1), step_seed(1)] == [
        4869543934787301343,
        8916875589619154468,
        3874038210105081456,
    ]
    assert rng_of(3, "arch", 17).getrandbits(64) == 16745324172194054829
    assert rng_of("calibration").random() == 0.8418439640016698
    assert rng_of(0, "calibration", "others").sample(range(100), 5) == [27, 64, 22, 49, 90]
    assert [rng_within(123, purpose).getrandbits(64) for purpose in ("near", "mutate", "cross")] == [
        13777196254152748912,
        3486643254074214835,
        4839320728779782255,
    ]


def test_near_parts_have_nothing_in_common() -> None:
    asks = {ask_seed(seed, i, retry) for seed in range(10) for i in range(50) for retry in range(10)}
    assert len(asks) == 5000 and max(asks) < 2**32
    samples = {sample_seed(seed, i) for seed in range(50) for i in range(50)}
    assert len(samples) == 2500 and max(samples) < 2**63
    assert step_seed(1, 23) != step_seed(12, 3) and rng_of(1, 23).random() != rng_of(12, 3).random()
