"""Percentiles and histograms of counted values, by hand."""

from collections import Counter

from megatron_longrlvr.data.audit.distribution import Bin, Distribution


def test_summary_of_ten_values():
    distribution = Distribution()
    distribution.add(range(1, 11))
    assert distribution.summary() == {
        **{"mean": 5.5, "min": 1, "p1": 1, "p10": 1, "p50": 5, "p90": 9, "p99": 10, "max": 10}
    }


def test_bins_cover_all_values_once():
    distribution = Distribution(Counter({0: 1, 19: 2, 20: 3, 41: 4}))
    # 42 values in at most 20 bars: three in each.
    bins = distribution.bins()
    assert bins[0] == Bin(low=0, high=2, count=1)
    assert bins[6] == Bin(low=18, high=20, count=5)
    assert bins[-1] == Bin(low=39, high=41, count=4)
    assert sum(bar.count for bar in bins) == 10
    assert len(bins) == 14


def test_nothing_seen_has_no_bins_and_zeros():
    assert Distribution().bins() == []
    assert set(Distribution().summary().values()) == {0}
