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
  """Such as '+0.0123 ± 0.0004', as far as the claim has numbers.

  A second error is over conversations of the test set.
  """
  if 'mean' not in claim:
    return ''
  names = [name for name in ('se', 'se_conversations') if name in claim]
  errors = [claim[name] for name in names]
  return f'{claim["mean"]:+.4f}' + ''.join(
    f' ± {error:.4f}' for error in errors if error is not None
  )


def main(argv: list[str]) -> None:
  for folder in argv:
    for figure, text, value, verdict in rows(folder):
      print(f'{figure:12} {verdict:9} {value:27} {text}')


if __name__ == '__main__':
  main(sys.argv[1:])
