"""Several commands, one after another, in one session of processes.

  python -m tests.recipes.several PLAN.json [--coordinator=... and so on]

PLAN is a list of {"argv": [...], "stop": STEP}: with a STEP process 0 gets
SIGTERM while it logs that training step. Each process writes what became of
them to PLAN.json.ID, a list of {"code", "out", "err"}.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import sys
from unittest import mock

from hh_jax import cli, distributed
from hh_jax import metrics as metrics_lib
from tests.recipes import chain as chain_lib


def stopped(step: int | None) -> contextlib.AbstractContextManager:
  """Within it a signal comes while the losses of that step are logged."""
  if step is None or not distributed.is_writer():
    return contextlib.nullcontext()
  write = metrics_lib.MetricsWriter.write

  def terminated(self, at, metrics):
    write(self, at, metrics)
    if at == step and {'train/loss', 'ppo/loss'} & metrics.keys():
      os.kill(os.getpid(), signal.SIGTERM)

  return mock.patch.object(metrics_lib.MetricsWriter, 'write', terminated)


def main(path: pathlib.Path, flags: list[str]) -> None:
  words = ['several', '--config=none', '--workdir=none', *flags]
  asked = cli.parse(words, ['several']).processes
  done = []
  with distributed.session(asked):
    for command in json.loads(path.read_text()):
      with stopped(command.get('stop')):
        done.append(dataclasses.asdict(chain_lib.command(command['argv'])))
  me = asked.process_id or 0
  path.with_name(f'{path.name}.{me}').write_text(json.dumps(done))


if __name__ == '__main__':
  main(pathlib.Path(sys.argv[1]), sys.argv[2:])
