"""The small world at the size of the tables: 2,400 facts, every setting its default.

    python -m pretrainrl_jax.main --config configs/small_world.py

About eight minutes on two CPU cores. docs/results.md has three seeds of it. `--help SECTION` lists the
settings; configs/quickstart.py has a fifth of the facts, in two minutes.
"""

from pretrainrl_jax.config import Config

config = Config()
