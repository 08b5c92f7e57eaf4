# Copyright 2026 The vf_jax authors. SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from vf_jax.errors import InputError
from vf_jax.labels import SCHEMES, to_verse
from vf_jax.multispine.sources.codes import UNNAMED, refuse_others


def test_codes_without_a_name_cannot_pass_for_a_level():
  table = refuse_others({3: 20, 40: 0})
  assert (table[3], table[40]) == (20, 0)
  assert all(table[code] == UNNAMED for code in range(1, 29) if code != 3)
  assert 0 not in table, "background stays background"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_scheme_knows_the_code(scheme):
  with pytest.raises(InputError, match=str(UNNAMED)):
    to_verse(np.array([UNNAMED]), scheme)
