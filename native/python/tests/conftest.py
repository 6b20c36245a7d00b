"""Which tests can run here: those of the operators need torch, those of the models transformers too."""

import os
import sys

import pytest

try:
    import uniprefill  # noqa: F401
except ImportError:
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../src"))
collect_ignore = []
try:
    import torch
except ImportError:
    # Loud: a run without torch checks little.
    print("torch is not installed: operators and models are not tested", file=sys.stderr)
    collect_ignore += ["test_operators.py", "test_models.py", "test_refusals.py", "test_needles.py"]
else:
    try:
        import transformers  # noqa: F401
    except ImportError:
        print("transformers is not installed: models are not tested", file=sys.stderr)
        collect_ignore += ["test_models.py", "test_refusals.py", "test_needles.py"]


DEVICES = ["cpu"]
if "torch" in sys.modules and torch.cuda.is_available():
    DEVICES.append("cuda")
elif "torch" in sys.modules:
    print("no GPU: the CUDA kernels are not tested, only the reference", file=sys.stderr)


def pytest_generate_tests(metafunc):
    if "device" in metafunc.fixturenames:
        metafunc.parametrize("device", DEVICES)


@pytest.fixture
def cuda():
    if "cuda" not in DEVICES:
        pytest.skip("no GPU")
    return "cuda"
