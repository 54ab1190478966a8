"""generate.py --prompts in PyTorch: transformers' generate() on padded batches.

  python -m benchmarks.torch_generate_ragged --prompts prompts.npz \\
    --layers 4 --d-model 256 --heads 8 --vocab 8192 --batch 16 \\
    --prompt-len 256 --new-tokens 128 --threads 1

Needs torch and transformers. The prompts of a pool come in the file's order,
or by length with --sort; each batch is padded to its longest, and ends when
all of its rows have the length that the file gives.
"""

import argparse
import json
import os
import statistics
import time

import numpy as np


def main(argv=None) -> None:
  flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  integers = {
    'layers': 2, 'd-model': 64, 'heads': 4, 'vocab': 512, 'batch': 8,
    'prompt-len': 32, 'new-tokens': 32, 'pool': 64, 'warmup': 2, 'steps': 5,
    'threads': 1, 'seed': 0,
  }  # fmt: skip
  for name, default in integers.items():
    flags.add_argument(f'--{name}', type=int, default=default)
  flags.add_argument('--prompts', required=True)
  flags.add_argument('--sort', action='store_true')
  flags.add_argument('--out')
  args = flags.parse_args(argv)
  if args.threads:  # the core that benchmarks/common.py takes
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-args.threads :])
  measure(args)


def make_model(args):
  import torch
  from transformers import AutoModelForCausalLM, LlamaConfig

  torch.manual_seed(args.seed)
  config = LlamaConfig(
    vocab_size=args.vocab,
    hidden_size=args.d_model,
    num_hidden_layers=args.layers,
    num_attention_heads=args.heads,
    num_key_value_heads=args.heads,
    intermediate_size=-(-(8 * args.d_model // 3) // 16) * 16,
    max_position_embeddings=args.prompt_len + args.new_tokens,
    tie_word_embeddings=True,
    pad_token_id=0,
  )
  return AutoModelForCausalLM.from_config(config).eval()


def run_pool(args, model, prompts, lengths) -> None:
  """Replies to all prompts, each of its length."""
  import torch
  from transformers import GenerationConfig, StoppingCriteriaList

  # no EOS of the model's own: the criterion alone ends a row
  config = GenerationConfig(
    max_new_tokens=args.new_tokens, do_sample=True, top_k=0, top_p=1.0,
    eos_token_id=None, pad_token_id=0, use_cache=True,
  )  # fmt: skip
  order = np.arange(len(prompts))
  if args.sort:
    order = np.argsort([len(x) for x in prompts], kind='stable')
  for start in range(0, len(prompts), args.batch):
    part = order[start : start + args.batch]
    width = max(len(prompts[i]) for i in part)
    ids = np.zeros((len(part), width), np.int64)
    mask = np.zeros_like(ids)
    for row, i in enumerate(part):
      ids[row, width - len(prompts[i]) :] = prompts[i]
      mask[row, width - len(prompts[i]) :] = 1
    ends = width + torch.from_numpy(lengths[part].astype(np.int64))
    out = model.generate(
      input_ids=torch.from_numpy(ids),
      attention_mask=torch.from_numpy(mask),
      generation_config=config,
      stopping_criteria=StoppingCriteriaList(
        [lambda x, scores, ends=ends, **_: x.shape[1] >= ends]
      ),
    )
    assert out.shape[1] == width + lengths[part].max(), out.shape


def measure(args) -> None:
  import torch
  import transformers

  if args.threads:
    torch.set_num_threads(args.threads)
  model = make_model(args)
  data, times = np.load(args.prompts), []
  ids, ends = data['prompts'], data['offsets']
  lengths = np.minimum(data['reply_lengths'][: args.pool], args.new_tokens)
  with torch.inference_mode():
    for i in range(args.warmup + args.steps):
      where = range(i * args.pool, (i + 1) * args.pool)
      pool = [ids[ends[j] : ends[j + 1]][-args.prompt_len :] for j in where]
      begin = time.perf_counter()
      run_pool(args, model, pool, lengths)
      times.append(time.perf_counter() - begin)
  timed, tokens = times[args.warmup :], int(lengths.sum())
  line = json.dumps({
    'bench': 'hf_generate_ragged',
    'samples_per_s': args.pool / statistics.median(timed),
    'tokens_per_s': tokens / statistics.median(timed),
    'samples_per_s_best': args.pool / min(timed),
    'tokens_per_s_best': tokens / min(timed),
    'step_s_median': statistics.median(timed),
    'step_s_min': min(timed),
    'step_s_max': max(timed),
    'first_step_s': times[0],
    'tokens_per_s_total': tokens * len(timed) / sum(timed),
    'samples_per_step': args.pool,
    'tokens_per_step': tokens,
    'params': sum(x.numel() for x in model.parameters()),
    'loadavg': os.getloadavg()[0],
    'versions': {
      'torch': torch.__version__, 'transformers': transformers.__version__
    },
    'args': {k: v for k, v in vars(args).items() if k != 'out'},
  })  # fmt: skip
  print(line)
  if args.out:
    with open(args.out, 'w') as file:
      file.write(line + '\n')


if __name__ == '__main__':
  main()
