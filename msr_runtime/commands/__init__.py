"""What the commands do: `robot` and `bench` without torch, `training` and `evaluation` with the extra `train`."""
