"""Every recipe on one device, on four, and on two processes of two devices.

Chain's runs and those of ALONE are of one process with four devices. Each of
the other places runs COMMANDS in one session (see several.py), so that a
process starts, and connects, once.
"""

from collections.abc import Callable
import dataclasses
import fcntl
import json
import pathlib
import shutil

from tests import conftest, two_processes
from tests.recipes import chain as chain_lib

LINKS = {
  'tokenizer': (),
  'pretrain': ('tokenizer',),
  'pmp': ('tokenizer', 'init_from=pretrain'),
  'pm': ('tokenizer', 'init_from=pretrain'),
  'ppo': ('tokenizer', 'init_from=pretrain', 'pm', 'heldout_pm'),
  'best_of_n': ('tokenizer', 'run=pretrain', 'pm', 'heldout_pm'),
  'distill': ('tokenizer', 'init_from=pretrain', 'teacher=pretrain'),
  'sft': ('tokenizer', 'init_from=pretrain'),
  'prompts': ('tokenizer', 'init_from=pretrain'),
  'sample': ('run=ppo',),
}
IN_CHAIN = ('pretrain', 'pm', 'ppo', 'best_of_n')
ALONE = ('pmp', 'distill', 'sft', 'prompts', 'sample')
# Stopped at these steps on four devices, then on one; two processes end them.
RESUMED = {'pm': (2, 4), 'ppo': (1, 2)}
# beside the same on another mesh, a batch in two parts
SPLIT = '--config.mesh.model=2', '--config.num_micro_batches=2'


def argv(
  chain: chain_lib.Chain, recipe: str, workdir: pathlib.Path, *flags: str
) -> list[str]:
  """A recipe on the chain's runs; flags override."""
  config = f'{chain_lib.TINY}:{recipe}'
  if recipe == 'sample':
    config = f'{conftest.REPO}/configs/sample.py'
    prompts = workdir.with_suffix('.txt')
    prompts.write_text('What is a tap?\nHow do I bake?\nWho are you?\n')
    flags = (f'--config.prompts={prompts}', '--config.max_reply=12', *flags)
  if recipe == 'prompts':  # one of 64 attempts is text
    flags = ('--config.num_prompts=1', *flags)
  where = f'--workdir={workdir}'
  return [
    *(recipe, f'--config={config}', where),
    *chain.links(*LINKS[recipe]),
    *flags,
  ]


@dataclasses.dataclass(frozen=True)
class Place:
  """Finished runs, a directory each, and what each process said of them."""

  path: pathlib.Path
  said: list[dict[str, chain_lib.Done]]  # of each process: run -> Done

  def run(self, name: str) -> pathlib.Path:
    assert [d[name].code for d in self.said] == [0] * len(self.said), self.said
    return self.path / name


def once(
  path: pathlib.Path, make: Callable[[], list[dict[str, chain_lib.Done]]]
) -> Place:
  """The place at `path`, made by the first worker of pytest that asks."""
  file = path.with_suffix('.json')
  with open(path.with_suffix('.lock'), 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not file.exists():
      shutil.rmtree(path, ignore_errors=True)  # of one that failed
      path.mkdir()
      said = [
        {name: dataclasses.asdict(done) for name, done in one.items()}
        for one in make()
      ]
      file.write_text(json.dumps(said))
  return Place(path, [
    {name: chain_lib.Done(**done) for name, done in one.items()}
    for one in json.loads(file.read_text())
  ])  # fmt: skip


def here(
  chain: chain_lib.Chain, path: pathlib.Path, cache: pathlib.Path
) -> list[dict[str, chain_lib.Done]]:
  """ALONE, and the beginnings of RESUMED, in this process on four devices."""
  from tests.recipes import several

  said = {}
  with chain_lib.recipe_settings(cache):
    for name in ALONE:
      said[name] = chain_lib.command(argv(chain, name, path / name))
    for name, (step, _) in RESUMED.items():
      with several.stopped(step):
        command = argv(chain, name, path / f'{name}_resumed')
        said[f'{name}_resumed'] = chain_lib.command(command)
  return [said]


def elsewhere(
  chain: chain_lib.Chain,
  before: Place,
  path: pathlib.Path,
  *,
  processes: int,
  devices: int,
  cache: pathlib.Path,
) -> list[dict[str, chain_lib.Done]]:
  """All recipes, and RESUMED from where the place before has left them."""
  commands = {name: {'argv': argv(chain, name, path / name)}
              for name in (*IN_CHAIN, *ALONE)}  # fmt: skip
  for name, (_, step) in RESUMED.items():
    run = f'{name}_resumed'
    shutil.copytree(before.path / run, path / run)
    commands[run] = {'argv': argv(chain, name, path / run)}
    if processes == 1:
      commands[run]['stop'] = step
  if processes > 1:
    del commands['sample']  # test_process_0_alone_prints has it
    for name in RESUMED:
      split = argv(chain, name, path / f'{name}_split', *SPLIT)
      commands[f'{name}_split'] = {'argv': split}
    slots = argv(chain, 'ppo', path / 'ppo_slots', '--config.slots=4')
    commands['ppo_slots'] = {'argv': slots}
  plan = path / 'plan.json'
  plan.write_text(json.dumps(list(commands.values())))
  command = ['-m', 'tests.recipes.several', str(plan)]
  with two_processes.Processes(
    *[command] * processes, devices=devices, cache=cache
  ) as running:
    ended = running.ended(timeout=900)
  assert [code for code, *_ in ended] == [0] * processes, ended
  files = [path / f'{plan.name}.{i}' for i in range(processes)]
  return [
    {
      name: chain_lib.Done(**done)
      for name, done in zip(commands, json.loads(f.read_text()), strict=True)
    }
    for f in files
  ]
