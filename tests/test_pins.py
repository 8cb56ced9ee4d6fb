"""The identical-loss rule: 20 steps of each method have the losses that `pins.json` holds."""

import json

import pytest

from tests import pins


@pytest.mark.slow
@pytest.mark.parametrize("method", pins.FLAGS)
def test_losses_are_the_pinned_ones(method, tmp_path):
    """Equal to the bit on one machine; to 1e-4 here, since processors round differently."""
    pinned = json.loads(pins.FILE.read_text("utf-8"))[method]
    found = pins.losses(method, tmp_path)
    assert found.keys() == pinned.keys()
    for term, values in pinned.items():
        assert len(values) == pins.STEPS
        assert found[term] == pytest.approx(values, rel=1e-4, abs=1e-4), term


def test_a_change_of_a_loss_is_seen():
    pinned = json.loads(pins.FILE.read_text("utf-8"))["avkd"]
    changed = {**pinned, "loss": [x + 2e-4 for x in pinned["loss"]]}
    assert pins.largest_difference(pinned, pinned) == 0
    assert pins.largest_difference(changed, pinned) > 1e-4
    assert pins.largest_difference({"loss": pinned["loss"]}, pinned) == float("inf")
