"""The verdicts of all experiments in a folder, a line a claim.

python -m experiments.table results/gpu
"""

import json
import pathlib
import sys
from typing import Any

WIDTH = 76  # of a claim
VERDICTS = {True: 'holds', False: 'does not', None: 'one seed'}


def rows(folder: str) -> list[tuple[str, str, str, str]]:
  """(figure, claim, mean and error, verdict) of all claims there."""
  out = []
  for path in sorted(pathlib.Path(folder).glob('*.json')):
    result = json.loads(path.read_text())
    for claim in result['claims'] if 'claims' in result else ():
      text = claim['claim']
      verdict = VERDICTS[claim['holds']]
      out.append((path.stem, text[:WIDTH], number(claim), verdict))
  return out


def number(claim: dict[str, Any]) -> str:
  """Such as '+0.0123 ± 0.0004', as far as the claim has numbers."""
  if 'mean' not in claim:
    return ''
  error = '' if claim['se'] is None else f' ± {claim["se"]:.4f}'
  return f'{claim["mean"]:+.4f}{error}'


def main(argv: list[str]) -> None:
  for folder in argv:
    for figure, text, value, verdict in rows(folder):
      print(f'{figure:12} {verdict:9} {value:18} {text}')


if __name__ == '__main__':
  main(sys.argv[1:])
