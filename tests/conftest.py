"""Every test runs on four fake CPU devices, with strict shapes."""

import importlib.util
import os
import pathlib

os.environ['JAX_PLATFORMS'] = 'cpu'  # read when jax is imported
# A device that waits for the others holds a thread, and its matrix products
# want more from the same pool, which has max(cores, devices) of them: on few
# cores that is a deadlock. XLA takes the size of the pool from here.
os.environ['NPROC'] = '16'
# Tests compile far more than they compute.
os.environ['XLA_FLAGS'] = (
  '--xla_backend_optimization_level=0'
  # four devices on two busy cores may wait for each other longer than 40 s
  ' --xla_cpu_collective_call_terminate_timeout_seconds=200'
  ' --xla_cpu_collective_timeout_seconds=200'
)

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update('jax_num_cpu_devices', 4)
# Two programs in flight on four devices can starve each other of threads.
jax.config.update('jax_cpu_enable_async_dispatch', False)
jax.config.update('jax_numpy_rank_promotion', 'raise')
jax.config.update('jax_enable_compilation_cache', False)

REPO = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def tpu_compiler(monkeypatch) -> None:
  """For tests of the mark libtpu: skips without it."""
  if importlib.util.find_spec('libtpu') is None:
    pytest.skip('no libtpu here: nothing was compiled for a TPU')
  # another process may hold it
  monkeypatch.setitem(os.environ, 'ALLOW_MULTIPLE_LIBTPU_LOAD', '1')


@pytest.fixture(scope='session')
def shared_data() -> pathlib.Path:
  """The folder of public datasets beside the checkout; skips without it."""
  path = REPO.parent / 'shared' / 'data'
  if not path.is_dir():
    pytest.skip('no ../shared/data beside the checkout: real data not tested')
  return path
