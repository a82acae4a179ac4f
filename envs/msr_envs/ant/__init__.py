"""ant: a network learns the dynamics of Gymnasium's four-legged MuJoCo Ant, whose physics is unknown."""

from msr_envs.ant.family import Ant
from msr_envs.ant.simulator import AntEnv

__all__ = ["Ant", "AntEnv"]
