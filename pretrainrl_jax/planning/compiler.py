"""A process that compiles one program of a configuration for a slice, and leaves what it became.

    python -m pretrainrl_jax.planning.compiler < request.pickle

It is ended from outside as soon as the optimised program is written: machine code, which nobody here can run,
takes ten times as long.
"""

import pickle
import sys
from typing import NamedTuple

from pretrainrl_jax.config import Config
from pretrainrl_jax.planning.chips import Topology
from pretrainrl_jax.planning.target import planned_for, prepare_target
from pretrainrl_jax.planning.typical import Material


class Request(NamedTuple):
    """What is to be compiled."""

    config: Config
    topology: Topology
    material: Material
    program: str  # its name
    folder: str = ""  # for what it becomes


def main() -> None:
    """Compile what our own parent process asks for."""
    request: Request = pickle.load(sys.stdin.buffer)
    prepare_target(request.topology)
    whole = planned_for(request.config, request.topology, request.material)
    (program,) = (one for one in whole.programs if one.name == request.program)
    options = {"xla_dump_to": request.folder, "xla_dump_hlo_as_text": True}
    program.lower().compile(compiler_options=options)


if __name__ == "__main__":
    main()
