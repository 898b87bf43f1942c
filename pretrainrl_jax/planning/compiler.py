"""A process that compiles one program of a configuration for a slice, and leaves what it became.

    python -m pretrainrl_jax.planning.compiler < request.json

It is ended from outside as soon as the optimised program is written: machine code, which nobody here can run,
takes ten times as long.
"""

import json
import sys

from pretrainrl_jax.config.stored import from_flat
from pretrainrl_jax.planning.chips import topology
from pretrainrl_jax.planning.target import planned_for, prepare_target


def main() -> None:
    """Compile what standard input asks for: config (flat), topology, program (its name), folder."""
    request = json.loads(sys.stdin.read())
    config, place = from_flat(request["config"]), topology(request["topology"])
    prepare_target(place, config.platform)
    (program,) = (p for p in planned_for(config, place).programs if p.name == request["program"])
    options = {"xla_dump_to": request["folder"], "xla_dump_hlo_as_text": True}
    program.lower().compile(compiler_options=options)


if __name__ == "__main__":
    main()
