"""Dealing prompts: every epoch deals each prompt once; a position is the whole state."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_longrlvr.data.sources import FilePromptSource, PromptSource, epoch_order
from megatron_longrlvr.stages import Prompt


def make_prompts(count):
    return tuple(
        Prompt(
            prompt_id=str(index),
            text="",
            token_ids=(),
            question="",
            chunks=(),
            evidence_chunk_ids=frozenset(),
            reference_answers=(),
        )
        for index in range(count)
    )


def ids(prompts):
    return [int(prompt.prompt_id) for prompt in prompts]


def test_other_prompts_have_another_digest():
    prompts = make_prompts(2)
    changed = [
        prompts[::-1],
        prompts[:1],
        *(
            (replace(prompts[0], **change), prompts[1])
            for change in (
                {"text": "Who?"},
                {"reference_answers": ("nobody",)},
                {"evidence_chunk_ids": frozenset({3})},
            )
        ),
    ]
    digests = {FilePromptSource(one, seed=0).digest() for one in (prompts, *changed)}
    assert len(digests) == 6
    again = FilePromptSource(make_prompts(2), seed=7)
    again.draw(3)
    assert again.digest() == FilePromptSource(prompts, seed=0).digest()


def test_unshuffled_prompts_come_in_file_order_epoch_after_epoch():
    source: PromptSource = FilePromptSource(make_prompts(3), seed=0, shuffle=False)
    assert ids(source.draw(2)) == [0, 1]
    assert ids(source.draw(5)) == [2, 0, 1, 2, 0]


@given(count=st.integers(1, 30), seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 100))
def test_every_epoch_is_a_permutation(count, seed, epoch):
    assert sorted(epoch_order(count, seed=seed, epoch=epoch)) == list(range(count))


def test_order_is_pinned():
    # Measured once: a resumed run depends on the order never changing.
    assert epoch_order(8, seed=3, epoch=0) == (6, 1, 5, 2, 7, 4, 3, 0)
    assert epoch_order(8, seed=3, epoch=1) == (7, 3, 5, 6, 4, 0, 2, 1)


def test_orders_differ_between_epochs_and_seeds():
    orders = [epoch_order(50, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


@given(
    count=st.integers(1, 12),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    shuffle=st.booleans(),
)
def test_what_is_dealt_does_not_depend_on_the_sizes_of_draws(count, sizes, shuffle):
    prompts = make_prompts(count)
    in_parts = FilePromptSource(prompts, seed=5, shuffle=shuffle)
    at_once = FilePromptSource(prompts, seed=5, shuffle=shuffle)
    dealt = [prompt for size in sizes for prompt in in_parts.draw(size)]
    assert tuple(dealt) == at_once.draw(sum(sizes))
    assert in_parts.state() == at_once.state() == sum(sizes)
    # Whole epochs deal each prompt equally often.
    times = Counter(ids(dealt[: len(dealt) // count * count])).values()
    assert set(times) <= {len(dealt) // count}


@given(before=st.integers(0, 25), elsewhere=st.integers(0, 25))
def test_restored_source_continues_as_if_it_had_not_stopped(before, elsewhere):
    prompts = make_prompts(7)
    straight = FilePromptSource(prompts, seed=1)
    resumed = FilePromptSource(prompts, seed=1)
    if before:
        straight.draw(before)
    if elsewhere:
        resumed.draw(elsewhere)
    resumed.restore(straight.state())
    assert resumed.draw(10) == straight.draw(10)


def test_shuffled_epochs_follow_their_orders():
    source = FilePromptSource(make_prompts(6), seed=9)
    epochs = [tuple(ids(source.draw(6))) for _ in range(3)]
    assert epochs == [epoch_order(6, seed=9, epoch=epoch) for epoch in range(3)]
    assert all(first != second for first, second in pairwise(epochs))


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="no prompts"):
        FilePromptSource((), seed=0)
    source = FilePromptSource(make_prompts(2), seed=0)
    with pytest.raises(ValueError, match="num_prompts must be at least 1, got 0"):
        source.draw(0)
    with pytest.raises(ValueError, match="after -1 prompts"):
        source.restore(-1)
