"""Robot simulations and the task families made from them; importing it registers their Gymnasium environments."""

from gymnasium.envs.registration import register

register("msr/RingNav-v0", entry_point="msr_envs.ring_nav_env:RingNavEnv", max_episode_steps=250)
register("msr/HexDrive-v0", entry_point="msr_envs.hex_drive:HexDriveEnv", max_episode_steps=120)
