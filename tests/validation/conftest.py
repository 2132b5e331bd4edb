from __future__ import annotations

import pytest
from validation.nets import conv_bn_net


@pytest.fixture
def net():
    return conv_bn_net()
