"""Processes that meet, miss and mistake each other, as threads."""

from collections.abc import Callable
from concurrent import futures
import socket
import time

import pytest

from hh_jax import rollcall
from hh_jax.errors import InputError


def free_port() -> int:
  with socket.create_server(('127.0.0.1', 0)) as server:
    return server.getsockname()[1]


def outcomes(*places: rollcall.Place, timeout: float = 20.0) -> list[str]:
  """What each is told: '' or the message of its InputError."""

  def one(place: rollcall.Place) -> str:
    try:
      rollcall.meet(place, timeout=timeout)
    except InputError as error:
      return str(error)
    return ''

  with futures.ThreadPoolExecutor(len(places)) as pool:
    return list(pool.map(one, places))


def make_places(*ids: int, of: int, port: int | None = None):
  where = f'127.0.0.1:{port or free_port()}'
  return [rollcall.Place(where, of, i) for i in ids]


def test_all_come_in_any_order_and_leave_the_port_free():
  port = free_port()
  for _ in range(2):  # again at once, as a job that is restarted
    assert outcomes(*make_places(2, 1, 0, 3, of=4, port=port)) == [''] * 4
  with socket.create_server(('', port)):
    pass


def test_the_missing_are_named_to_all():
  told = outcomes(*make_places(0, 2, of=5), timeout=1.0)
  assert told[0] == told[1]
  assert told[0].startswith('3 of 5 processes did not come to 127.0.0.1:')
  assert told[0].endswith('in 1 s: process_id 1, 3, 4')


def test_without_process_0():
  start = time.monotonic()
  (told,) = outcomes(*make_places(1, of=2), timeout=0.5)
  assert told.startswith('process_id 1 waited 0.5 s for process_id 0 at ')
  assert time.monotonic() - start < 5


@pytest.mark.parametrize(
  ('other', 'said'),
  [((3, 1), 'process_id 1 of 3 came'), ((4, 2), 'process_id 2 of 4 came')],
)
def test_mistaken_numbers(other, said):
  port = free_port()
  places = make_places(0, 1, of=3, port=port)
  places.append(rollcall.Place(places[0].coordinator, *other))
  assert all(text.startswith(said) for text in outcomes(*places))


def test_strangers_are_overheard():
  port = free_port()
  where = '127.0.0.1', port

  def stranger(_) -> None:
    for text in (b'GET / HTTP/1.1\r\n', b'hh_jax process x y\n', b''):
      _until(lambda: socket.create_connection(where)).sendall(text)

  with futures.ThreadPoolExecutor(2) as pool:
    told = pool.submit(outcomes, *make_places(0, of=2, port=port))
    pool.submit(stranger, None).result()
    assert outcomes(*make_places(1, of=2, port=port)) == ['']
    assert told.result() == ['']


def _until(do: Callable[[], socket.socket]) -> socket.socket:
  while True:
    try:
      return do()
    except OSError:
      time.sleep(0.05)


def test_a_taken_port():
  port = free_port()
  with socket.create_server(('', port)):
    (told,) = outcomes(*make_places(0, of=2, port=port))
  assert told.startswith(f'process 0 cannot listen at 127.0.0.1:{port}: ')


@pytest.mark.parametrize(
  ('fields', 'said'),
  [
    (('host', 2, 0), "coordinator 'host' is no HOST:PORT"),
    (('host:0', 2, 0), "coordinator 'host:0' is no HOST:PORT"),
    (('host:99999', 2, 0), "coordinator 'host:99999' is no HOST:PORT"),
    (('host:7000', 2, 2), 'process_id 2 is not in 0 .. 1'),
  ],
)
def test_places_that_are_none(fields, said):
  with pytest.raises(InputError, match=said):
    rollcall.Place(*fields)
