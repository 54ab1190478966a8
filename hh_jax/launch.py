"""Starts a run on several processes, here or on a cluster.

  python -m hh_jax launch --on=slurm --nodes=2 RECIPE --config=... --workdir=...

`local` starts --processes of them on this machine; `slurm` prints a job script
and `xpk` a command for TPU slices on GKE. What comes after the recipe's name is
what it would be without `launch`; its options, the keys of its config, its mesh
and its batches are checked here.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import hashlib
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys
import time
from typing import Any

from hh_jax import cli, recipes, stopping
from hh_jax.errors import InputError

ON = ('local', 'slurm', 'xpk')
OF = {  # the options of each
  'local': ('processes', 'devices'),
  'slurm': ('nodes', 'gpus', 'minutes', 'setup'),
  'xpk': ('cluster', 'tpu_type', 'slices', 'restarts', 'image'),
}
ZERO = ('devices', 'gpus', 'restarts')  # options that may be 0
NOTICE_S = 120  # between SIGTERM to all processes and the end of a job
SLURM_LATE_S = 60  # by which Slurm may give notice earlier
XPK_NAME = 40  # characters at most
POLL_S = 0.2
# Config fields that name runs.
LINKS = (
  'tokenizer', 'init_from', 'teacher', 'pm', 'heldout_pm', 'others', 'run',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options:
  """What --NAME=VALUE before the recipe's name says."""

  on: str = ''
  processes: int = 2  # local
  devices: int = 0  # local: simulated CPU devices a process; 0: what is there
  nodes: int = 1  # slurm
  gpus: int = 8  # slurm: a node; one process has them all; 0: none
  minutes: int = 24 * 60  # slurm
  setup: str = ''  # slurm: a line before the run, such as `source ENV/bin/...`
  cluster: str = ''  # xpk
  tpu_type: str = ''  # xpk: of a slice, such as v5p-512
  slices: int = 1  # xpk
  restarts: int = 10  # xpk: after a preemption, at most so many
  image: str = ''  # xpk: a Docker image with hh_jax in it


def parse(argv: Sequence[str]) -> tuple[Options, list[str]]:
  """Options, and the command of the recipe."""
  options, words = _options(argv)
  if words and words[0] == 'sweep':
    raise InputError(
      'a sweep launches its own cells: sweep --config.on=slurm, say'
    )
  if words and words[0] in recipes.OWN_OPTIONS:
    raise InputError(f'{words[0]} runs here, in one process, without launch')
  if not words or words[0] not in recipes.RECIPES:
    raise InputError('after the options comes a recipe with its own')
  command = cli.parse(words, recipes.RECIPES)
  config = cli.load_config(command.config, command.overrides)
  _check(options, config, command)
  return options, words


def _options(argv: Sequence[str]) -> tuple[Options, list[str]]:
  """Those before the recipe's name, and the words from there on."""
  fields = {
    f'--{f.name.replace("_", "-")}': f for f in dataclasses.fields(Options)
  }
  given, words = {}, list(argv)
  while words and words[0].startswith('--'):
    name, is_given, value = words.pop(0).partition('=')
    if name not in fields:
      raise InputError(
        f'launch has no option {name}: {cli.nearest(name, fields)}'
      )
    if not is_given:
      raise InputError(f'{name} has no value: write {name}=VALUE')
    field = fields[name]
    low = 0 if field.name in ZERO else 1
    if field.type is int and not (value.isdecimal() and int(value) >= low):
      raise InputError(
        f'{name} takes an integer of {low} or more, not {value!r}'
      )
    given[field.name] = field.type(value)
  options = Options(**given)
  if options.on not in ON:
    raise InputError(f'--on {options.on!r} is none of {", ".join(ON)}')
  for name in given:
    if name != 'on' and name not in OF[options.on]:
      raise InputError(
        f'--{name.replace("_", "-")} is no option of --on={options.on}'
      )
  return options, words


def _check(options: Options, config: Any, command: cli.Command) -> None:
  """InputError for what the cluster would only find out later."""
  if options.on == 'xpk':
    if not command.workdir.startswith('/'):
      raise InputError(
        f'--workdir {command.workdir} would be lost with its container: xpk '
        'wants an absolute path, of a disk that all hosts mount'
      )
    for key, path in _links(config):
      if not path.startswith('/'):
        raise InputError(
          f'config.{key} {path} is not in the container: xpk wants an absolute '
          'path, of a disk that all hosts mount'
        )
  if options.on == 'slurm' and 60 * options.minutes < NOTICE_S + SLURM_LATE_S:
    raise InputError(
      f'--minutes {options.minutes} leaves no time before the notice, '
      f'{NOTICE_S + SLURM_LATE_S} s before the limit'
    )
  for stage, section in _stages(config, command).items():
    if 'mesh' not in section:
      continue
    try:
      _check_batches(stage, section, _mesh_shape(options, section.mesh))
    except InputError as error:
      raise InputError(f'{stage}: {error}') from error


def _stages(config: Any, command: cli.Command) -> dict[str, Any]:
  """Recipe -> its config; of a pipeline those of its stages."""
  if command.recipe != 'pipeline':
    return {command.recipe: config}
  from hh_jax.recipes import pipeline

  return pipeline.sections(config, pathlib.Path(command.workdir))


def _check_batches(stage: str, config: Any, shape: tuple[int, ...]) -> None:
  """InputError as the recipe has it, for a mesh of devices not here."""
  # only now: JAX takes seconds
  from jax.sharding import AbstractMesh

  from hh_jax import sharding
  from hh_jax.recipes import common, ppo

  mesh = AbstractMesh(shape, sharding.AXES)
  check = ppo.check_batches if stage == 'ppo' else common.check_batches
  check(config, mesh)


def _mesh_shape(options: Options, mesh: Any) -> tuple[int, ...]:
  """Sizes of sharding.AXES; fsdp=1 where how many devices is not known."""
  axes = mesh.data, mesh.sequence, mesh.model, abs(mesh.fsdp)
  if min(axes) < 1 or mesh.fsdp < -1:
    raise InputError(f'config.mesh has an axis below 1: {mesh.to_dict()}')
  if options.on == 'xpk' and mesh.data % options.slices:
    raise InputError(
      f'config.mesh.data {mesh.data} is not a multiple of --slices='
      f'{options.slices}: no other axis goes from slice to slice'
    )
  devices = {
    'local': options.processes * options.devices,
    'slurm': options.nodes * options.gpus,
  }.get(options.on)
  others = mesh.data * mesh.sequence * mesh.model
  fsdp = mesh.fsdp if mesh.fsdp > 0 else (devices or 0) // others
  if devices and others * fsdp != devices:
    raise InputError(
      f'config.mesh does not lay out {devices} devices: {mesh.to_dict()}'
    )
  return mesh.data, fsdp or 1, mesh.sequence, mesh.model


def _is_section(value: Any) -> bool:
  return hasattr(value, 'items')


def _links(section: Any, prefix: str = '') -> Iterator[tuple[str, str]]:
  """(key, path) of all LINKS in a config that name something."""
  for key, value in section.items():
    if _is_section(value):
      yield from _links(value, f'{prefix}{key}.')
    elif key in LINKS:
      for path in [value] if isinstance(value, str) else value or ():
        if path:
          yield f'{prefix}{key}', path


def options_in_words() -> str:
  """What --on takes, and with it; a line a place."""
  defaults = Options()

  def word(name: str) -> str:
    default = getattr(defaults, name)
    return f'--{name.replace("_", "-")}={"..." if default == "" else default}'

  return '\n'.join(f'--on={on}: {" ".join(map(word, OF[on]))}' for on in ON)


def main(argv: Sequence[str]) -> int:
  """Prints or starts what the command line says; the exit code."""
  options, words = parse(argv)
  if options.on == 'local':
    return run_local(options, words)
  print(slurm(options, words) if options.on == 'slurm' else xpk(options, words))
  return 0


def _name(words: Sequence[str]) -> str:
  """Of the job, from the recipe and its run directory: a-z, 0-9 and -."""
  workdir = cli.parse(words, recipes.RECIPES).workdir
  text = f'{words[0]}-{pathlib.Path(workdir).name}'.lower()
  return re.sub('[^a-z0-9]+', '-', text).strip('-')


def _workload(words: Sequence[str]) -> str:
  """A name for xpk, of this run alone: one that is there it refuses."""
  workdir = cli.parse(words, recipes.RECIPES).workdir
  digest = hashlib.sha256(f'{words[0]} {workdir}'.encode()).hexdigest()[:8]
  return f'{_name(words)[: XPK_NAME - 9].strip("-")}-{digest}'


def slurm(options: Options, words: Sequence[str]) -> str:
  """A job script: whole nodes, a process each, found by Slurm's variables.

  Before its limit the job gets SIGTERM, saves, and queues itself again, where
  it goes on; so it does after a preemption or the loss of a node. A run that
  ends, fails or is cancelled is not queued again.
  """
  name = _name(words)
  directives = {
    'job-name': name,
    'nodes': options.nodes,
    'ntasks-per-node': 1,
    'exclusive': None,
    'mem': 0,  # all of a node's
    'gpus-per-node': options.gpus,
    'time': options.minutes,
    'signal': f'TERM@{NOTICE_S}',
    'requeue': None,
    'open-mode': 'append',
    'output': f'{name}-%j.log',
  }
  if not options.gpus:
    del directives['gpus-per-node']
  lines = ['#!/bin/bash']
  for key, value in directives.items():
    lines.append(f'#SBATCH --{key}' + ('' if value is None else f'={value}'))
  if options.setup:
    lines.append(options.setup)
  command = f'python -m hh_jax {shlex.join(words)}'
  limit = max(60 * options.minutes - NOTICE_S - SLURM_LATE_S, 0)
  lines += [
    f'srun --kill-on-bad-exit=1 --cpu-bind=none {command}',
    'code=$?',
    '# 143: it saved on SIGTERM, here because the time is up',
    f'if [ $code -eq 143 ] && [ $SECONDS -ge {limit} ]; then',
    '  scontrol requeue "$SLURM_JOB_ID"',
    'fi',
    'exit $code',
  ]
  return '\n'.join(lines)


def xpk(options: Options, words: Sequence[str]) -> str:
  """A command for xpk; JAX finds its processes by GKE's variables.

  A preempted pod gets SIGTERM and NOTICE_S to save; all start again and go on.
  xpk does so by exit codes: after 143, and 134 where another one died, not 1.
  """
  for field in ('cluster', 'tpu_type', 'image'):
    if not getattr(options, field):
      raise InputError(f'--on=xpk needs --{field.replace("_", "-")}=...')
  return shlex.join([
    'xpk', 'workload', 'create',
    f'--cluster={options.cluster}',
    f'--workload={_workload(words)}',
    f'--tpu-type={options.tpu_type}',
    f'--num-slices={options.slices}',
    f'--docker-image={options.image}',
    f'--max-restarts={options.restarts}',
    f'--termination-grace-period-seconds={NOTICE_S}',
    f'--command=python -m hh_jax {shlex.join(words)}',
  ])  # fmt: skip


def _free_port() -> int:
  with socket.socket() as found:
    found.bind(('127.0.0.1', 0))
    return found.getsockname()[1]


def run_local(options: Options, words: Sequence[str]) -> int:
  """All processes of a run on this machine; 0, or the first other exit code.

  A signal is passed on to all, which save.
  """
  environment = dict(os.environ)
  if options.devices:
    environment |= {
      'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(options.devices)
    }  # fmt: skip
  coordinator = f'127.0.0.1:{_free_port()}'
  processes = [
    subprocess.Popen(
      [sys.executable, '-m', 'hh_jax', *words,
       f'--coordinator={coordinator}', f'--num_processes={options.processes}',
       f'--process_id={i}'],
      env=environment,
      start_new_session=True,
    )
    for i in range(options.processes)
  ]  # fmt: skip
  try:
    while any(process.poll() is None for process in processes):
      time.sleep(POLL_S)
  finally:
    stopping.end(processes)
  return next((p.returncode for p in processes if p.returncode), 0)
