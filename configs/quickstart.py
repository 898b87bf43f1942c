"""The small world, from nothing to a report in a few minutes on two CPU cores.

    python -m pretrainrl_jax.main

Every setting is its default: see pretrainrl_jax/config.py, or `python -m pretrainrl_jax.main --help`.
"""

from pretrainrl_jax.config import Config

config = Config()
