"""Finished preference models with known numbers, as far as plots read them."""

from collections.abc import Mapping, Sequence
import json
import pathlib

PER_KIND = 20  # held-out pairs


def write_pm(
  workdir: pathlib.Path,
  name: str,
  size: str,
  seed: int,
  *,
  right: Mapping[str, int] | None = None,
  curve: Mapping[int, Mapping[str, float]] | None = None,
  pairs: int = PER_KIND,
) -> None:
  """A run in workdir/pm/NAME/SIZE/seedN.

  right: kind -> how many of its `pairs` test pairs it gets right. curve:
  comparisons seen -> kind -> accuracy while training.
  """
  path = workdir / 'pm' / name / size / f'seed{seed}'
  path.mkdir(parents=True)
  (path / 'summary.json').write_text('{}')
  rows = [
    {
      'source': f'gold-{kind}-base',
      'score_chosen': float(i < count),
      'score_rejected': 0.5,
      'turns': 1,
      'conversation': f'{kind} {i}',
    }
    for kind, count in (right or {}).items()
    for i in range(pairs)
  ]
  _write(path / 'eval.jsonl', rows)
  lines = [{'step': 0, 'time': 0.0, 'eval/accuracy': 0.5}]
  for step, (seen, kinds) in enumerate((curve or {}).items(), start=1):
    lines.append({'step': step, 'time': 1.0, 'train/pairs': float(seen)})
    values = {f'eval/gold-{k}-base/accuracy': a for k, a in kinds.items()}
    overall = sum(kinds.values()) / len(kinds)
    lines.append({'step': step, 'time': 1.0, 'eval/accuracy': overall} | values)
    lines[0] |= dict.fromkeys(values, 0.5)
  _write(path / 'metrics.jsonl', lines)


def _write(path: pathlib.Path, rows: Sequence[dict]) -> None:
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
