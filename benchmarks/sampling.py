"""How fast outputs are drawn: our sampler against plain `generate`, tokens a second on the same prompts.

    python benchmarks/sampling.py                          # the demo's model and prompts, five turns
    python benchmarks/sampling.py --model runs/demo/model  # a model whose outputs are short
    python benchmarks/sampling.py --table docs/performance.md

Both draw from the whole distribution (no top-p, no top-k, temperature 1) in bfloat16 where that is fastest, in batches of the
same size. `generate` takes the prompts in the order they come; `generate, by length` takes the batches that our sampler takes.
A token counts up to the one that ends its output.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from base_recipe import base_recipe
from result_files import (
    RESULTS,
    Rows,
    made_by,
    markdown_table,
    median_row,
    put_between,
    ratio_row,
    read_results,
    results_path,
    shown,
    write_results,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from adhere.recipe.schema import Recipe
    from adhere.records import Prompt
    from adhere.sampling.sampler import TransformersSampler

BENCHMARK = "sampling"
OURS, PLAIN, SORTED = "adhere", "generate", "generate, by length"
WAYS = (OURS, PLAIN, SORTED)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results file, or put its table into a document."""
    options = _options(arguments)
    path = results_path(options.results, BENCHMARK)
    if options.table is not None:
        put_between(options.table, BENCHMARK, table(read_results(path), path))
        return
    kept = read_results(path)["rows"] if path.exists() else []
    rows = [row for row in kept if row["model"] != options.model] + measured(options)
    write_results(path, BENCHMARK, rows, range(options.turns))
    print(path)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--recipe", type=Path, help="the demo's when left out")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="as in `adhere train`")
    parser.add_argument("--model", default="embedded", help="folder or hub id; the demo's when left out")
    parser.add_argument("--outputs", type=int, default=256, help="outputs of a turn")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results file")
    parser.add_argument("--quick", action="store_true", help="few outputs: shows that it runs, no more")
    parser.add_argument("--table", type=Path, help="put the table into this Markdown file; runs nothing")
    options = parser.parse_args(arguments)
    if options.quick:
        options.outputs, options.batch_sizes, options.turns = 4, [2], 1
    return options


def measured(options: argparse.Namespace) -> Rows:
    """Tokens a second of every way and batch size, in turn, after one short turn that does not count."""
    from adhere.cli.quiet import quiet_libraries
    from adhere.models.frozen import FrozenModel, fast_dtype
    from adhere.models.policy import load_policy
    from adhere.recipe.inputs import read_inputs

    quiet_libraries()
    recipe = base_recipe(options.recipe, Path("runs"), [*options.settings, f"model.path={json.dumps(options.model)}"])
    policy = load_policy(recipe.model, recipe.seed)
    prompts = read_inputs(recipe, policy.tokenizer, policy.context_length).prompts[: options.outputs]
    rows: Rows = []
    with FrozenModel(policy.model, fast_dtype(policy.device)).lent() as model:
        for size in options.batch_sizes:
            draw = _Drawing(model, policy.tokenizer, recipe, size)
            for way in WAYS:
                draw(way, prompts[:size], seed=-1)
            speeds: dict[str, list[float]] = {way: [] for way in WAYS}
            lengths: list[float] = []
            for turn in range(options.turns):
                for way in WAYS if turn % 2 == 0 else WAYS[::-1]:
                    tokens, seconds = draw(way, prompts, turn)
                    speeds[way].append(tokens / seconds)
                    lengths.append(tokens / len(prompts))
                print(
                    f"batch {size}, turn {turn}: " + str({w: round(s[-1], 1) for w, s in speeds.items()}),
                    file=sys.stderr,
                )
            tags = {"model": options.model, "batch_size": str(size)}
            rows += [median_row("tokens_per_second", speeds[way], "1/s", way=way, **tags) for way in WAYS]
            rows += [
                ratio_row("tokens_per_second_over_generate", speeds[OURS], speeds[way], way=way, **tags)
                for way in (PLAIN, SORTED)
            ]
            rows.append(median_row("output_length", lengths, "tokens", **tags))
    return rows


class _Drawing:
    """Draws one output for every prompt in one of the ways; told are the tokens and the seconds."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe, size: int) -> None:
        from adhere.sampling.sampler import TransformersSampler

        self._model, self._tokenizer = model, tokenizer
        self._config = recipe.sampling.model_copy(update={"batch_size": size})
        self._sampler: TransformersSampler = TransformersSampler(model, tokenizer, self._config)

    def __call__(self, way: str, prompts: Sequence[Prompt], seed: int) -> tuple[int, float]:
        import torch

        torch.manual_seed(seed + 1)
        batches = self._sampler.plan(prompts)
        start = time.perf_counter()
        if way == OURS:
            tokens = sum(len(sample.output_ids) for batch in batches for sample in self._sampler.draw(batch, seed + 1))
        else:
            texts = [[prompt.text for prompt, _ in batch.items] for batch in batches]
            if way == PLAIN:
                flat = [prompt.text for prompt in prompts]
                texts = [flat[n : n + self._config.batch_size] for n in range(0, len(flat), self._config.batch_size)]
            tokens = sum(map(self._generate, texts))
        if self._model.device.type == "cuda":
            torch.cuda.synchronize()
        return tokens, time.perf_counter() - start

    def _generate(self, texts: Sequence[str]) -> int:
        """What a person writes: tokenise, pad on the left, `generate`, count."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        from adhere.data.tokenization import pad_id
        from adhere.sampling.sampler import end_ids

        ends, pad = end_ids(self._model, self._tokenizer), pad_id(self._tokenizer)
        rows = [torch.tensor(ids).flip(0) for ids in self._tokenizer(list(texts))["input_ids"]]
        ids_BT = pad_sequence(rows, batch_first=True, padding_value=pad).flip(1)
        mask_BT = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).flip(1)
        device = self._model.device
        with torch.inference_mode():
            output_BT = self._model.generate(
                input_ids=ids_BT.to(device),
                attention_mask=mask_BT.to(device),
                max_new_tokens=self._config.max_new_tokens,
                do_sample=True,
                temperature=1.0,
                top_p=1.0,
                top_k=0,
                eos_token_id=ends,
                pad_token_id=pad,
            )
        written_BT = output_BT[:, ids_BT.shape[1] :]
        ended_BT = torch.isin(written_BT, torch.tensor(ends, device=written_BT.device))
        return int((ended_BT.cumsum(1) - ended_BT.long() == 0).sum())


def table(told: dict[str, Any], path: Path) -> str:
    """Tokens a second by model, batch size and way."""
    rows = told["rows"]
    lines = []
    for model, size in dict.fromkeys((row["model"], row["batch_size"]) for row in rows):
        of = {(row["name"], row.get("way")): row for row in rows if (row["model"], row["batch_size"]) == (model, size)}
        length = shown({**of["output_length", None], "low": None}, "{:.1f}")
        lines.append(
            [
                f"{model}, {length} tokens an output, {size} at a time",
                *(shown(of.get(("tokens_per_second", way)), "{:,.0f}") for way in WAYS),
                *(shown(of.get(("tokens_per_second_over_generate", way))) for way in (PLAIN, SORTED)),
            ]
        )
    head = ["tokens a second", *WAYS, f"{OURS} ÷ {PLAIN}", f"{OURS} ÷ {SORTED}"]
    return f"{made_by(told, path)}\n\n{markdown_table(head, lines)}\n"


if __name__ == "__main__":
    main()
