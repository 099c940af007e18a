"""A plan feeds PyTorch: batches of tensors, and no file."""

from __future__ import annotations

from pathlib import Path

import landscape
import numpy as np
import pytest
from landscape import HEIGHT, WIDTH

import geopipe as gp


def test_batches_of_a_plan_are_its_pixels_and_nothing_is_written(tmp_path: Path, ray_session: None) -> None:
    torch = pytest.importorskip("torch")
    plan = gp.plan(landscape.settings(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    images = {name: np.full((HEIGHT, WIDTH), -1.0, "float32") for name in ("rain", "slope")}
    dataset = gp.merge(plan).select_columns(["row", "col", *images])
    for batch in dataset.iter_torch_batches(batch_size=4096, dtypes=torch.float32):
        assert all(isinstance(tensor, torch.Tensor) for tensor in batch.values())
        place = batch["row"].long().numpy(), batch["col"].long().numpy()
        for name, image in images.items():
            image[place] = batch[name].numpy()
    for name, image in images.items():
        np.testing.assert_array_equal(image, landscape.arrays()[name].astype("float32"))
    assert sorted(tmp_path.rglob("*")) == before
