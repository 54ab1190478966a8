"""Signals end runs after what is learnt is saved."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from hh_jax import stopping


def send(signum=signal.SIGTERM):
  os.kill(os.getpid(), signum)


@pytest.mark.parametrize('signum', stopping.SIGNALS)
def test_a_signal_waits_for_the_end_of_the_block(signum):
  seen = []
  with pytest.raises(stopping.Stopped) as stop:
    with stopping.after_a_step() as waiting:
      seen.append(waiting())
      send(signum)
      seen.append(waiting())
  assert seen == [0, signum] and stop.value.signum == signum


@pytest.mark.parametrize('first', stopping.SIGNALS)
def test_ctrl_c_after_another_signal_does_not_wait(first):
  seen = []
  with pytest.raises(stopping.Stopped):
    with stopping.after_a_step():
      send(first)
      send(signal.SIGTERM)  # as often as a cluster likes
      seen.append('first')
      send(signal.SIGINT)
      seen.append('second')
  assert seen == ['first']


SLOW_TO_END = """
import signal, time
signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))
print('ready', flush=True)
while True: time.sleep(0.05)
"""


def test_processes_that_do_not_end_are_killed_by_ctrl_c():
  process = subprocess.Popen(
    [sys.executable, '-c', SLOW_TO_END], stdout=subprocess.PIPE, text=True
  )
  assert process.stdout.readline() == 'ready\n'
  threading.Timer(0.5, send, [signal.SIGTERM]).start()  # changes nothing
  threading.Timer(1.0, send, [signal.SIGINT]).start()
  with pytest.raises(stopping.Stopped):
    stopping.end([process])
  assert process.stdout.readline() == 'asked\n'
  assert process.wait(timeout=10) == -signal.SIGKILL


def test_errors_of_the_block_are_not_hidden():
  with pytest.raises(ValueError, match='why'):
    with stopping.after_a_step():
      send()
      raise ValueError('why')


def test_handlers_are_given_back():
  before = [signal.getsignal(s) for s in stopping.SIGNALS]
  with stopping.at_once():
    with pytest.raises(stopping.Stopped, match='terminated'):
      send()
    with stopping.after_a_step():
      pass
    assert [signal.getsignal(s) for s in stopping.SIGNALS] != before
  assert [signal.getsignal(s) for s in stopping.SIGNALS] == before


def test_other_threads_leave_signals_alone():
  seen = []

  def work():
    with stopping.after_a_step() as waiting:
      seen.append(waiting())

  thread = threading.Thread(target=work)
  thread.start()
  thread.join()
  assert seen == [0]


WAITS = """
import sys, time
from hh_jax import __main__, cli
def wait(*args):
  print('ready', flush=True)
  time.sleep(60)
cli.load_config = wait
sys.exit(__main__.main(['pm', '--config=x', '--workdir=y']))
"""


@pytest.mark.parametrize(
  ('signum', 'code', 'word'),
  [(signal.SIGTERM, 143, 'terminated'), (signal.SIGINT, 130, 'interrupted')],
)
def test_the_command_says_how_it_ended(signum, code, word):
  process = subprocess.Popen(
    [sys.executable, '-c', WAITS],
    stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
  )  # fmt: skip
  assert process.stdout.readline() == 'ready\n'
  process.send_signal(signum)
  _, err = process.communicate(timeout=30)
  assert process.returncode == code
  assert err == f'hh_jax: {word}; the same command resumes\n'
