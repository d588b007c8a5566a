"""Environments as vectors of N with one autoreset rule: games of ALE, all of Gymnasium, and functions that make one."""

from distilrl.envs.cartpole import is_plain_cartpole
from distilrl.envs.interface import EnvInfo, Step, VecEnv
from distilrl.envs.make import describe_env, in_arrays, make_vec_env
from distilrl.envs.single import asked_of, find_spec, is_trusted, texts_in, trust, trusted

__all__ = [
    "EnvInfo",
    "Step",
    "VecEnv",
    "asked_of",
    "describe_env",
    "find_spec",
    "in_arrays",
    "is_plain_cartpole",
    "is_trusted",
    "make_vec_env",
    "texts_in",
    "trust",
    "trusted",
]
