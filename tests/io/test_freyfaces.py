"""Frey Faces: a named set of images without labels, read from one file."""

from pathlib import Path

import numpy as np
import pytest

from bnnkit.errors import DataError
from bnnkit.io.data import load_data
from bnnkit.spec import DataSpec

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def test_the_name_reads_the_file(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 20), dtype=np.uint8)
    np.savez(tmp_path / "freyfaces.npz", images=images)
    data = load_data(DataSpec("Frey-Faces", root=str(tmp_path), labelled=False))
    assert data.name == "freyfaces"
    assert data.input_shape == (1, 28, 20)
    assert len(data.train) + len(data.test) == 20


def test_where_it_is_missing_it_says_what_is_needed(tmp_path):
    with pytest.raises(DataError, match=r"frey_rawface\.mat"):
        load_data(DataSpec("freyfaces", root=str(tmp_path), labelled=False))


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "freyfaces.npz").is_file(), reason="no Frey Faces")
def test_the_real_ones():
    data = load_data(DataSpec("freyfaces", root=str(SHARED), labelled=False))
    assert len(data.train) + len(data.test) == 1965
