"""Bai et al. 2022, Fig 12: scores of harmful utterances, and of genders.

Claim: (left) AI utterances that people labelled harmful score clearly lower
than the others; (right) scores differ no more between words for women and men
than among words for one gender (A.2). The paper takes the first AI utterance of
each BAD conversation (Xu et al. 2020); that data is not here. Utterances come
from --config.probes.utterances, JSON lines {"prompt": human turn, "reply": AI
utterance, "is_harmful": true or false}. Stand-ins, named as such in the output:
--config.probes.advbench, AdvBench's csv (its compliant targets against fixed
refusals of ours, to the same requests), and without either, in the gold world,
first replies of the test set (harmful: those that comply with harm).
Command: python -m experiments.fig12_harmful_and_gender \\
  --workdir=runs/pm_sweep [--scale=cpu]
Cost: Fig 7's runs, and seconds a model.
Expect: the first claim where the model learned harmlessness. Words of gender
are English: with the gold world, which has none, the right half is left out.
The first verdict is over seeds and over utterances (those to one prompt are
drawn together), the second over seeds alone: its words are not drawn.
"""

import csv
import gzip
import itertools

import numpy as np

from experiments import analysis, gender_words, judged, scoring, sweep
from hh_jax import dialogue
from hh_jax.data import gold_world, hh_rows, sources
from hh_jax.errors import InputError
from hh_jax.evals import external, ood

# (prompt, reply, is_harmful)
Utterances = list[tuple[str, str, bool]]


def run(config, workdir: str) -> None:
  """Fig 7's models and their scores of the utterances and templates."""
  runs = sweep.by_size(config, workdir)
  utterances, name = find_utterances(config)
  if utterances:
    scoring.keep(
      *(workdir, 'utterances', runs, lambda j: _score(j, utterances, name)),
      texts=config.probes.utterances or config.probes.advbench or name,
    )
  if config.pm.data.name != 'gold_world':
    scoring.keep(workdir, 'gender', runs, score_gender, texts='gender_words')


def find_utterances(config) -> tuple[Utterances, str]:
  """The utterances that the config names, and what they are."""
  probes = config.probes
  if probes.utterances:
    return read_utterances(probes.utterances), 'file'
  if probes.advbench:
    return read_advbench(probes.advbench), 'stand-in: AdvBench and refusals'
  if config.pm.data.name == 'gold_world':
    data = config.pm.data
    source = sources.build(data.name, data.options.to_dict())
    return gold_utterances(source.pairs('test')), 'stand-in: gold world'
  return [], ''


def read_utterances(path: str) -> Utterances:
  """Rows as the docstring above has them; InputError names the line."""
  found = []
  for row in hh_rows.read_rows(path):
    texts = [row.record[k] for k in ('prompt', 'reply') if k in row.record]
    is_text = len(texts) == 2 and all(
      isinstance(t, str) and t.strip() and not dialogue.num_turns(t)
      for t in texts
    )
    label = row.record['is_harmful'] if 'is_harmful' in row.record else None
    if row.reason or not is_text or not isinstance(label, bool):
      raise InputError(
        f'{path}:{row.line}: want texts prompt and reply, one turn each, and '
        'is_harmful true or false'
      )
    found.append((_prompt(texts[0]), f' {texts[1]}', label))
  _check_labels(path, found)
  return found


def read_advbench(path: str) -> Utterances:
  """AdvBench's '.csv[.gz]': each goal with its target, and with a refusal."""
  open_file = gzip.open if path.endswith('.gz') else open
  try:
    with open_file(path, 'rt', encoding='utf-8', newline='') as file:
      rows = [(row['goal'], row['target']) for row in csv.DictReader(file)]
  except (OSError, EOFError, UnicodeError, KeyError, csv.Error) as e:
    raise InputError(f'{path}: no csv with goal and target: {e}') from e
  found = []
  refusals = itertools.cycle([refusal for refusal, _ in external.OPENINGS])
  for (goal, target), refusal in zip(rows, refusals, strict=False):
    found.append((_prompt(goal), f' {target}', True))
    found.append((_prompt(goal), refusal, False))
  _check_labels(path, found)
  return found


def gold_utterances(pairs) -> Utterances:
  """First replies of the conversations; harmful: their gold score says so."""
  return [
    (pair.prompt, reply, gold_world.gold_score(pair.prompt, reply).harmless < 0)
    for pair in pairs
    if pair.prompt.count(dialogue.HUMAN) == 1
    for reply in (pair.chosen, pair.rejected)
  ]


def _prompt(text: str) -> str:
  return f'{dialogue.HUMAN} {text}{dialogue.ASSISTANT}'


def _check_labels(path: str, found: Utterances) -> None:
  if len({label for *_, label in found}) != 2:
    raise InputError(f'{path}: want harmful utterances and others')


def _score(judge, utterances: Utterances, name: str) -> scoring.Rows:
  prompts, replies, labels = zip(*utterances, strict=True)
  scores = scoring.reply_scores(judge, prompts, replies).tolist()
  numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(prompts))}
  return [
    {
      'score': score,
      'is_harmful': label,
      'utterances': name,
      'prompt': numbers[prompt],
    }
    for score, label, prompt in zip(scores, labels, prompts, strict=True)
    if np.isfinite(score)
  ]


def score_gender(judge) -> scoring.Rows:
  """A row a sentence: its score, occupation, tense, pair of words, gender."""
  rows, prompts, replies = [], [], []
  for one in gender_words.sentences():
    prompts.append(one.pop('prompt'))
    replies.append(one.pop('reply'))
    rows.append(one)
  scores = scoring.reply_scores(judge, prompts, replies)
  if not np.isfinite(scores).all():
    raise InputError('the sentences of Fig 12 do not fit a row')
  return [
    row | {'score': score}
    for row, score in zip(rows, scores.tolist(), strict=True)
  ]


def split(rows: scoring.Rows) -> dict[str, np.ndarray]:
  """Scores of harmful and of other utterances, less the mean of all."""
  scores = scoring.column(rows, 'score')
  is_harmful = scoring.column(rows, 'is_harmful')
  scores = scores - scores.mean()
  return {'harmful': scores[is_harmful], 'not harmful': scores[~is_harmful]}


def differences(rows: scoring.Rows) -> dict[str, np.ndarray]:
  """Differences of scores between sentences that differ in one word.

  between: the woman's word less the man's, within each pair of words. within:
  two words of one gender, all of them. Same occupation and tense.
  """
  table: dict[tuple, float] = {
    (r['occupation'], r['tense'], r['gender'], r['pair']): r['score']
    for r in rows
  }
  places = sorted({key[:2] for key in table})
  words = sorted({key[3] for key in table})
  women, men = (
    np.array([[table[*place, gender, w] for w in words] for place in places])
    for gender in ('woman', 'man')
  )
  i, j = np.triu_indices(len(words), 1)
  within = np.ravel([x[:, i] - x[:, j] for x in (women, men)])
  both_ways = np.concatenate([within, -within])  # no word is the first one
  return {'between': (women - men).ravel(), 'within': both_ways}


def _rms(values: np.ndarray) -> float:
  return float(np.sqrt(np.mean(np.square(values))))


def harmful_gap(ones: list[scoring.Rows]) -> judged.OfRows:
  """Mean score of other utterances less that of harmful ones, a seed each."""
  prompts = [scoring.column(rows, 'prompt').tolist() for rows in ones]
  if any(found != prompts[0] for found in prompts):
    raise InputError('seeds have scores of different utterances')
  scores = np.stack([scoring.column(rows, 'score') for rows in ones])
  is_harmful = scoring.column(ones[0], 'is_harmful')

  def values(rows: np.ndarray) -> list[float]:
    at, of = is_harmful[rows], scores[:, rows]
    return [judged.mean(x, ~at) - judged.mean(x, at) for x in of]

  return values


def harmful_report(found: dict) -> tuple[dict, list[dict]]:
  """By size: means and AUROC; a verdict a size."""
  summary, claims = {}, []
  for size, rows in analysis.by_size(found, list).items():
    ones = [split(one) for one in rows]
    gap = [one['not harmful'].mean() - one['harmful'].mean() for one in ones]
    auroc = [ood.auroc(one['harmful'], one['not harmful']) for one in ones]
    summary[size] = {
      'difference': analysis.estimate(gap).report(),
      'auroc': analysis.estimate(auroc).report(),
      'utterances': {name: values.size for name, values in ones[0].items()},
    }
    text = f'{size}: harmful utterances score lower than the others'
    prompts = scoring.column(rows[0], 'prompt')
    claims.append(judged.claim(text, harmful_gap(rows), prompts))
  return summary, claims


def gender_report(found: dict) -> tuple[dict, list[dict]]:
  """By size: root mean square differences; a verdict a size."""
  summary, claims = {}, []
  for size, ones in analysis.by_size(found, differences).items():
    values = {
      'rms_between': [_rms(one['between']) for one in ones],
      'rms_within': [_rms(one['within']) for one in ones],
      'mean_woman_less_man': [one['between'].mean() for one in ones],
    }
    summary[size] = {
      k: analysis.estimate(v).report() for k, v in values.items()
    }
    text = f'{size}: words of one gender differ more than the two of a pair'
    rest = np.subtract(values['rms_within'], values['rms_between'])
    claims.append(analysis.claim(text, rest))
  return summary, claims


def plot(workdir: str) -> dict:
  """Writes fig12.png and fig12.json: differences, verdicts."""
  harmful = scoring.kept(workdir, 'utterances', ('prompt',))
  gender = scoring.kept(workdir, 'gender')
  analysis.require(harmful or gender, 'scores of utterances', workdir)
  summary = {'claims': [], 'left_out': []}
  if harmful:
    summary['utterances'] = next(iter(harmful.values()))[0]['utterances']
    summary['harmful'], found = harmful_report(harmful)
    summary['claims'] += found
  else:
    summary['left_out'].append('harmful utterances: no file for this data')
  if gender:
    summary['gender'], found = gender_report(gender)
    summary['claims'] += found
  else:
    summary['left_out'].append('gender: the gold world has no such words')
  return analysis.write(workdir, 'fig12', summary, draw(harmful, gender))


def draw(harmful: dict, gender: dict):
  """Histograms of the largest size, all seeds."""
  titles = []
  if harmful:
    titles.append(next(iter(harmful.values()))[0]['utterances'])
  titles += ['gender'] * bool(gender)
  drawing, axes = analysis.axes(*titles, width=4.6)
  if harmful:
    parts = _largest(harmful, split)
    judged.histogram(axes[0], judged.bins(parts.values()), parts)
    axes[0].set_xlabel('Score (PM units; mean of all 0)')
  if gender:
    parts = _largest(gender, differences)
    names = {'between': 'woman − man', 'within': 'same gender'}
    parts = {names[k]: v for k, v in parts.items()}
    judged.histogram(axes[-1], judged.bins(parts.values()), parts)
    axes[-1].set_xlabel('Difference of scores (PM units)')
  return drawing


def _largest(found: dict, fn) -> dict[str, np.ndarray]:
  ones = list(analysis.by_size(found, fn).values())[-1]
  return {name: np.concatenate([one[name] for one in ones]) for name in ones[0]}


if __name__ == '__main__':
  sweep.main(__doc__, run, plot)
