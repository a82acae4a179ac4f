"""What every test shares."""

import contextlib

# Tests run in parallel processes, so one thread each is fastest; without torch the robot's side can still be tested.
with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)
