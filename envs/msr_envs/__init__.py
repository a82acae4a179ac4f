"""Robot simulators, and the task families made from them. Importing the package registers Gymnasium environments.

The environments are `msr/RingNav-v0`, `msr/HexDrive-v0`, `msr/Ant-v0`, `msr/Arm-v0` and `msr/Quadrotor-v0`. Without
Gymnasium, as on a robot, nothing is registered. Logs can be read all the same.
"""

from contextlib import suppress

from msr_envs.checking import check_family, check_policy
from msr_envs.registry import load_family

__all__ = ["check_family", "check_policy", "load_family"]

with suppress(ModuleNotFoundError):
    from gymnasium.envs.registration import register

    register("msr/RingNav-v0", entry_point="msr_envs.ring_nav.environment:RingNavEnv", max_episode_steps=250)
    register("msr/HexDrive-v0", entry_point="msr_envs.hex_drive.environment:HexDriveEnv", max_episode_steps=120)
    register("msr/Ant-v0", entry_point="msr_envs.ant.environment:AntTrotEnv", max_episode_steps=40)
    register("msr/Arm-v0", entry_point="msr_envs.arm.environment:ArmEnv", max_episode_steps=24)
    register("msr/Quadrotor-v0", entry_point="msr_envs.quadrotor.environment:QuadrotorEnv", max_episode_steps=500)
