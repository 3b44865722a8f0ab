"""Sums of a layer's outputs, block by block: each block counts once, whatever was killed and done again."""

import numpy as np
import pytest

from diffviews.lightning.sums import BlockSums

OUTPUTS = {block: np.full(3, 10.0**block, np.float32) for block in range(1, 6)}
ALL = np.full(3, 111_110.0)


def counted(folder, *processes):
    for blocks in processes:
        sums = BlockSums(folder)
        for block in blocks:
            sums.add(block, OUTPUTS[block])
    return BlockSums.total(folder)


@pytest.mark.parametrize(
    "processes",
    [
        [[1, 2, 3, 4, 5]],
        [[1, 3, 5], [2, 4]],
        [[1, 2], [2, 3, 4, 5]],
        [[1], [1], [1, 2, 3, 4, 5]],
        [[1, 2, 3, 4, 5], [2]],
        [[1, 2, 3], [1, 4], [4, 5]],
        [[1, 2, 3, 4, 5], [5]],
    ],
    ids=["one", "two", "killed before a chunk", "thrice", "damaged later", "both", "last again"],
)
def test_every_block_is_counted_once(tmp_path, processes):
    np.testing.assert_array_equal(counted(tmp_path, *processes), ALL)


def test_a_block_is_stored_as_soon_as_it_is_counted(tmp_path):
    sums = BlockSums(tmp_path)
    for number, block in enumerate(OUTPUTS, start=1):
        sums.add(block, OUTPUTS[block])
        np.testing.assert_array_equal(BlockSums.total(tmp_path), sum(list(OUTPUTS.values())[:number]))


def test_sums_take_the_space_of_three_blocks_however_many_there_are(tmp_path):
    outputs, sums = np.ones(10_000, np.float32), BlockSums(tmp_path)
    for block in range(50):
        sums.add(block, outputs)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 3 * outputs.nbytes + 2048
    np.testing.assert_array_equal(BlockSums.total(tmp_path), np.full(10_000, 50.0))


def test_many_small_outputs_are_not_lost_beside_a_large_sum(tmp_path):
    sums = BlockSums(tmp_path)
    sums.add(0, np.full(1, 2.0**30, np.float32))
    for block in range(1, 65):
        sums.add(block, np.ones(1, np.float32))
    assert BlockSums.total(tmp_path)[0] == 2.0**30 + 64
