"""`ConstrainedTrainer`: transformers' Trainer, with a policy held near the closest distribution that satisfies a rule.

    L(θ) = L_LLM(θ; corpus) + Σ_k λ_k · KL(q*_k ‖ p_θ)          (method.md §1)

All iterations run inside one `.train()`, with one optimiser and one learning-rate schedule. Guidance is handed over before
the first micro-batch of a step; a checkpoint is written at every iteration boundary before the refresh begins.

    B batch · T time · V vocabulary · D width of the language model
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from adhere.data.collation import IGNORED, ConstrainedCollator
from adhere.data.prompts import prompts_from_examples
from adhere.errors import RecipeError, RunFolderError
from adhere.guidance.constraint import Constraint, check_names
from adhere.guidance.executors import InProcess
from adhere.guidance.guidance import Guidance
from adhere.guidance.refresh import Refresher
from adhere.guidance.schedule import Schedule, Sequential, boundaries
from adhere.models.frozen import FrozenModel, fast_dtype, unhooked
from adhere.models.policy import Policy, as_policy
from adhere.records import Prompt
from adhere.training.adaptation import Adaptation
from adhere.training.batches import BATCH_KEYS, complete
from adhere.training.boundaries import Boundaries, restore
from adhere.training.config import NO_UPLOAD, ConstrainedConfig
from adhere.training.corpus_labels import CorpusLabels
from adhere.training.domains import Domains
from adhere.training.frozen_passes import iteration_anchor, read_frozen
from adhere.training.last_step import EndsAtLastStep
from adhere.training.loss import Batch, loss_sums
from adhere.training.progress_log import ProgressLog
from adhere.training.rows import check_length, tokenised
from adhere.training.sample_rows import SampleRows
from adhere.training.step_costs import StepCosts

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig
    from torch.utils.data import DataLoader


class ConstrainedTrainer(EndsAtLastStep):
    """Fine-tunes a causal language model on a corpus while holding it to constraints.

    Args:
        model: a hub id or folder, a loaded model, or a `Policy`.
        args: settings; `output_dir` is the run folder.
        train_dataset: rows as `text`, `prompt` + `completion` or `messages`, with an optional `domain`.
        constraints: at least one.
        processing_class: the tokenizer; needed when `model` is a loaded model.
        prompts: what to sample from; by default the prompts of the training rows.
        peft_config: train an adapter (PEFT) instead of all weights.
        callbacks, optimizers: as in `Trainer`.
        eval_dataset: rows as in `train_dataset`, or several of them by name; their loss is the plain cross-entropy.

    Raises:
        RecipeError: settings that cannot be carried out.
        ModelError: the model or tokenizer cannot be loaded.
        CorpusError: rows that cannot be read.
    """

    # The sums are divided by the counts of the whole accumulated batch, so nothing is left to scale.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: str | PreTrainedModel | Policy,
        args: ConstrainedConfig,
        train_dataset: Dataset | Sequence[dict[str, Any]],
        constraints: Sequence[Constraint],
        processing_class: PreTrainedTokenizerBase | None = None,
        prompts: Sequence[Prompt] | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        eval_dataset: Dataset | Sequence[dict[str, Any]] | dict[str, Any] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
    ) -> None:
        if args.world_size > 1:
            raise RecipeError(f"ConstrainedTrainer runs in one process for now, and here are {args.world_size}")
        self.constraints = list(constraints)
        check_names(self.constraints)
        policy = as_policy(model, processing_class, peft_config, args.seed)
        check_length(policy, args)
        self.config, self.tokenizer = args, policy.tokenizer
        rows = tokenised(train_dataset, self.tokenizer, args)
        self.prompts = list(prompts) if prompts is not None else prompts_from_examples(rows)
        super().__init__(
            model=policy.model,
            args=args,
            train_dataset=rows,
            eval_dataset=self._evaluated(eval_dataset),
            data_collator=ConstrainedCollator(policy.tokenizer),
            processing_class=policy.tokenizer,
            callbacks=[*(callbacks or []), Boundaries(self), StepCosts(Path(str(args.output_dir)), "constrained")],
            optimizers=optimizers,
        )
        self.run_folder = Path(str(args.output_dir))
        self.reference = FrozenModel(policy.model, fast_dtype(policy.device))  # before any checkpoint is loaded
        self.guidance: Guidance | None = None
        self.corpus_labels = CorpusLabels(
            rows, self.constraints, self.tokenizer, self.run_folder, args.refresh.max_without_verdict
        )
        self.domains = Domains(args.domains, self.constraints, rows, {prompt.domain for prompt in self.prompts})
        self.adaptation = Adaptation(self)
        self.progress = ProgressLog(self.run_folder)
        self._violating = torch.empty(0, dtype=torch.long)  # numbers of corpus rows
        self._schedule: Schedule | None = None
        self._anchor: FrozenModel | None = None
        self._sample_rows: SampleRows | None = None
        self._log_means: dict[str, Tensor] = {}  # of the weights of sampled prefixes, by constraint
        self._counts = (1.0, 1.0)

    # ---- guidance ---------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Take up nothing of another run: called when training begins.

        Raises:
            RecipeError: more iterations than steps.
            RunFolderError: the run folder holds a run that went further than this one, which begins at its first step.
        """
        self.starts()
        self._schedule = self.guidance = None
        self.adaptation.begin()
        if self.state.global_step == 0:
            later = [*self.run_folder.glob("checkpoint-*"), *self.run_folder.glob("guidance/iteration-*[1-9]")]
            if later:
                raise RunFolderError(
                    f"{self.run_folder} holds a run already ({later[0].relative_to(self.run_folder)}): go on with it by "
                    "train(resume_from_checkpoint=True), or choose another output_dir"
                )

    def starts(self) -> list[int]:
        """The steps at which iterations begin; known once training has begun.

        Raises:
            RecipeError: more iterations than steps.
        """
        try:
            return boundaries(self.state.max_steps, self.config.iterations)
        except ValueError as error:
            raise RecipeError(str(error)) from error

    def make_schedule(self) -> Schedule:
        """When and where guidance is refreshed. Override it to run refreshes elsewhere."""
        refresher = Refresher(
            tokenizer=self.tokenizer,
            reference=self.reference,
            constraints=self.constraints,
            prompts=self.prompts,
            corpus=self.corpus_labels.evidence(self.config.nado_fit.corpus_rows, self.config.seed),
            folder=self.run_folder,
            sampling=self.config.sampling,
            refresh=self.config.refresh,
            nado=self.config.nado,
            fitting=self.config.nado_fit,
            seed=self.config.seed,
            report=lambda event, numbers: self.progress.event(event, self.state.global_step, numbers),
        )
        return Sequential(self.starts(), InProcess(refresher))

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The micro-batches of the next optimiser step, and the guidance to take it with."""
        if self.adaptation.multipliers.stopped:  # taken up from a checkpoint, or in the rest of the epoch
            self.control.should_training_stop = True
            return [], None
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, count
        self._take_guidance()
        if self.adaptation.multipliers.stopped:
            self.control.should_training_stop = True
            return [], None
        # A row left out counts among the corpus tokens all the same: leaving it out must not make the others weigh more.
        corpus = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)
        step = self.state.global_step
        batches = [self._complete(batch, step * num_batches + number) for number, batch in enumerate(batches)]
        held = sum(int(batch["held"].sum()) for batch in batches)
        # Gradients are averaged over processes: each divides by its share of the global counts.
        counts = self.accelerator.gather(torch.tensor([[corpus, held]], device=device)).sum(0).tolist()
        corpus_share, held_share = (count / self.accelerator.num_processes for count in counts)
        self._counts = (max(corpus_share, 1.0), max(held_share, 1.0))
        return batches, count

    def _take_guidance(self) -> None:
        if self._schedule is None:
            self._schedule = self.make_schedule()
            if self.config.violating_rows != "learn":
                violating = self.corpus_labels.violating(self.domains.acts)
                self._violating = torch.tensor(sorted(violating), dtype=torch.long)
        policy, step = self.policy(), self.state.global_step
        self.progress.pause()
        guidance = self._schedule.guidance_at(step, policy)
        fresh = self.guidance is None or guidance.version != self.guidance.version
        if fresh:
            self._take_up(guidance, policy)
        self.adaptation.before_step(policy, guidance if fresh and guidance.version.policy_step == step else None)

    def _take_up(self, guidance: Guidance, policy: PreTrainedModel) -> None:
        self.guidance = guidance
        samples = self.progress.guidance(self, guidance)
        if self.config.positions != "corpus":
            self._sample_rows = SampleRows(samples, self.constraints, self.tokenizer, self.domains)
            self._log_means = self._sample_rows.log_means(guidance, self.reference)
        if self.config.anchor == "iteration":
            self._anchor = iteration_anchor(policy, guidance, self.state.global_step, self.run_folder)

    def policy(self) -> PreTrainedModel:
        """The model as it stands, without what accelerate puts round it."""
        return unhooked(self.accelerator.unwrap_model(self.model))

    # ---- loss -------------------------------------------------------------------------------------------------------

    def _complete(self, batch: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
        known = self.corpus_labels.violations(batch["row"].tolist())
        return complete(
            batch, number, self.config, self.domains, self._violating, known, self._sample_rows,
            self.tokenizer.pad_token_id,
        )  # fmt: skip

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The micro-batch's share of L_LLM + Σ_k λ_k·KL_k, each part divided by its own token count over the whole step."""
        if "learned" not in inputs:  # an evaluation batch: plain cross-entropy
            kept = {key: inputs[key] for key in ("input_ids", "attention_mask", "labels")}
            return super().compute_loss(model, kept, return_outputs, num_items_in_batch)
        assert self.guidance is not None
        batch = Batch(*(inputs[name] for name in BATCH_KEYS))
        rows = self.domains.weights(inputs["domain"], self.adaptation.multipliers.ratios)
        frozen = read_frozen(
            batch,
            self.reference,
            self._anchor,
            features=not self.guidance.reads_tokens,
            anchored_to_reference=self.config.anchor == "reference",
            reference_logits=self.domains.keeps_some and bool((rows.reference_B > 0).any()),
        )
        outputs = model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False)
        sums = loss_sums(
            outputs.logits,
            batch,
            self.guidance,
            self.constraints,
            frozen.features_BTD,
            frozen.anchor_BTV,
            prefix_weight_clip=self.config.prefix_weight_clip,
            log_means=self._log_means,
            rows=rows,
            reference_logits_BTV=frozen.reference_BTV,
        )
        corpus, held = self._counts
        loss = sums.corpus / corpus + sums.regulariser / held
        self.progress.add(sums, corpus, held, int(batch.attention_mask_BT.sum()))
        return (loss, outputs) if return_outputs else loss

    def train(self, resume_from_checkpoint: str | bool | None = None, *rest: Any, **keywords: Any) -> Any:
        """As in `Trainer`. From a checkpoint of another folder the run folder takes up what it lacks of the iteration."""
        if isinstance(resume_from_checkpoint, str) and self.is_world_process_zero():
            restore(self.run_folder, Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, *rest, **keywords)

    # ---- as in Trainer ----------------------------------------------------------------------------------------------

    def _evaluated(self, rows: Any) -> Any:
        """Rows to evaluate on, tokenised; a name stands for those of the constructor."""
        if isinstance(rows, dict):
            return {name: self._evaluated(part) for name, part in rows.items()}
        return rows if rows is None or isinstance(rows, str) else tokenised(rows, self.tokenizer, self.config)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """As in `Trainer`, for rows of every shape that `train_dataset` may have."""
        return super().get_eval_dataloader(self._evaluated(eval_dataset))

    def push_to_hub(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: it would upload the run folder, samples and labels with it."""
        raise RecipeError(NO_UPLOAD)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs of the Trainer with both losses, the KL's value and the speed since the last ones."""
        if "loss" in logs:
            logs = {**logs, **self.progress.take(self.state.global_step)}
        super().log(logs, start_time)
