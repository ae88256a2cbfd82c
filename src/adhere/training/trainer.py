"""`ConstrainedTrainer`: transformers' Trainer, with a policy held near the closest distribution that satisfies a rule.

    L(θ) = L_LLM(θ; corpus) + Σ_k λ_k · KL(q*_k ‖ p_θ)          (method.md §1)

All iterations run inside one `.train()`, with one optimiser and one learning-rate schedule. Guidance is handed over before
the first micro-batch of a step; a checkpoint is written at every iteration boundary before the refresh begins.

    B batch · T time · V vocabulary · D width of the language model
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from adhere import ranks
from adhere.data.collation import IGNORED, ConstrainedCollator
from adhere.data.prompts import prompts_from_examples
from adhere.errors import RecipeError, RefreshError
from adhere.guidance.constraint import Constraint, check_names
from adhere.guidance.guidance import Guidance
from adhere.guidance.schedule import Schedule, boundaries
from adhere.models.corpus_features import CorpusFeatures
from adhere.models.frozen import FrozenModel, fast_dtype, unhooked
from adhere.models.policy import Policy, as_policy
from adhere.models.whole import WholePolicy
from adhere.records import Prompt
from adhere.training.adaptation import Adaptation
from adhere.training.batches import BATCH_KEYS, complete
from adhere.training.boundaries import Boundaries, refuse_another_run, restore
from adhere.training.config import ConstrainedConfig
from adhere.training.corpus_labels import CorpusLabels
from adhere.training.domains import Domains
from adhere.training.drop_in import DropIn
from adhere.training.frozen_passes import corpus_features, iteration_anchor, read_frozen
from adhere.training.loss import Batch, loss_sums
from adhere.training.method_config import iterations_in
from adhere.training.policy_pass import PolicyPass
from adhere.training.processes import check_processes, join_processes, placed, shares
from adhere.training.progress_log import ProgressLog
from adhere.training.refresh_health import check_refresh
from adhere.training.refreshes import Refreshes, refresher_of
from adhere.training.rows import check_length, tokenised
from adhere.training.sample_rows import SampleRows
from adhere.training.step_costs import StepCosts

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig


class ConstrainedTrainer(DropIn):
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
        join_processes(args)
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
            health=args.health,
        )
        ranks.on_first(lambda: check_processes(self))
        self.run_folder = Path(str(args.output_dir))
        # Before any checkpoint is loaded, and before weights are sharded.
        self._whole = WholePolicy(policy.model, args.device) if self.is_fsdp_enabled else None
        self.reference = self._whole.reference if self._whole else FrozenModel(policy.model, fast_dtype(policy.device))
        self.guidance: Guidance | None = None
        self.corpus_labels = CorpusLabels(
            rows, self.constraints, self.tokenizer, self.run_folder, args.refresh.max_without_verdict
        )
        prompted = {prompt.domain for prompt in self.prompts}
        self.domains = Domains(args.domains, self.constraints, rows, prompted, args.reference_kl)
        self.adaptation = Adaptation(self)
        self.progress, self.policy_pass = ProgressLog(self.run_folder), PolicyPass(self)
        self._violating = torch.empty(0, dtype=torch.long)  # numbers of corpus rows
        self.loaded_by = policy.loaded_by
        self.refreshes = Refreshes(self)
        self._anchor: FrozenModel | None = None
        self._features: CorpusFeatures | None = None  # of the reference
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
        self.guidance = None
        self.refreshes.begin()
        self.adaptation.begin()
        if self.state.global_step == 0:
            ranks.on_first(lambda: refuse_another_run(self.run_folder))

    def starts(self) -> list[int]:
        """The steps at which iterations begin; known once training has begun.

        Raises:
            RecipeError: more iterations than steps.
        """
        try:
            steps = self.state.max_steps
            return boundaries(steps, iterations_in(steps, self.config.iterations))
        except ValueError as error:
            raise RecipeError(str(error)) from error

    def make_schedule(self) -> Schedule:
        """When and where guidance is refreshed. Override it to run refreshes elsewhere."""
        config = self.config
        corpus = self.corpus_labels.evidence(config.nado_fit.corpus_rows, config.seed)
        visits = self.state.max_steps * self.get_total_train_batch_size(config)
        self._features = corpus_features(self.reference, self.train_dataset, corpus, visits)
        return self.refreshes.make(refresher_of(self, corpus, self._features))

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
        try:
            self._take_guidance()
        except RefreshError as error:
            self.stop_with(error)
            return [], None
        if self.adaptation.multipliers.stopped:
            self.control.should_training_stop = True
            return [], None
        batches = placed(self, batches)
        # A row left out counts among the corpus tokens all the same: leaving it out must not make the others weigh more.
        corpus = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)
        step = self.state.global_step
        batches = [self._complete(batch, step * num_batches + number) for number, batch in enumerate(batches)]
        held = sum(int(batch["held"].sum()) for batch in batches)
        self._counts = shares(self.accelerator, corpus, held)
        return batches, count

    def _take_guidance(self) -> None:
        step = self.state.global_step
        # Gathered where somebody looks at it: at boundaries, and when training goes on.
        policy = self.policy() if self.guidance is None or step in self.starts() else self._live()
        if self.guidance is None and self.config.violating_rows != "learn":
            violating = self.corpus_labels.violating(self.domains.acts)
            self._violating = torch.tensor(sorted(violating), dtype=torch.long)
        self.progress.pause()
        guidance = self.refreshes.guidance_at(step, policy)
        fresh = self.guidance is None or guidance.version != self.guidance.version
        if fresh or self.refreshes.begins:
            self._take_up(guidance, policy, fresh)
        self.adaptation.before_step(policy, guidance if fresh and guidance.version.policy_step == step else None)
        if self._whole is not None:
            self._whole.let_go()

    def _take_up(self, guidance: Guidance, policy: PreTrainedModel, fresh: bool) -> None:
        self.guidance = guidance
        samples = self.progress.guidance(self, guidance)
        if fresh:
            check_refresh(self, guidance, samples)
        if fresh and self.config.positions != "corpus":
            self._sample_rows = SampleRows(samples, self.constraints, self.tokenizer, self.domains)
            self._log_means = self._sample_rows.log_means(guidance, self.reference)
        if self.config.anchor == "iteration":
            self._anchor = iteration_anchor(policy, self.refreshes.iteration, self.refreshes.begins, self.run_folder)

    def policy(self) -> PreTrainedModel:
        """The model as it stands, without what accelerate puts round it; where it is sharded, gathered."""
        return self._live() if self._whole is None else self._whole.at(self.state.global_step, self._live())

    def _live(self) -> PreTrainedModel:
        return unhooked(self.accelerator.unwrap_model(self.model))

    # ---- loss -------------------------------------------------------------------------------------------------------

    def _complete(self, batch: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
        known, pad = self.corpus_labels.violations(batch["row"].tolist()), self.tokenizer.pad_token_id
        return complete(batch, number, self.config, self.domains, self._violating, known, self._sample_rows, pad)

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
        near = self.domains.keeps_some and bool((rows.reference_B > 0).any())
        live = self.config.anchor == "live" and not return_outputs
        reference_head = self.policy_pass.reference_head() if near and live else None
        frozen = read_frozen(
            batch,
            self.reference,
            self._anchor,
            features=not self.guidance.reads_tokens or reference_head is not None,
            anchored_to_reference=self.config.anchor == "reference",
            reference_logits=near and reference_head is None,
            corpus=self._features,
        )
        whole = return_outputs or frozen.anchor_BTV is not None or frozen.reference_BTV is not None
        read, outputs = self.policy_pass(model, batch, whole=whole)
        sums = loss_sums(
            read,
            batch,
            self.guidance,
            self.constraints,
            frozen.features_BTD,
            frozen.anchor_BTV,
            prefix_weight_clip=self.config.prefix_weight_clip,
            log_means=self._log_means,
            rows=rows,
            reference_logits_BTV=frozen.reference_BTV,
            counts=self._counts,
            reference_head=reference_head,
        )
        corpus, held = self._counts
        loss = sums.over(corpus, held)
        self.note_kl(sum(sums.kl.values(), loss.new_zeros(())) / held)
        self.progress.add(sums, corpus, held, int(batch.attention_mask_BT.sum()))
        return (loss, outputs) if return_outputs else loss

    def train(self, resume_from_checkpoint: str | bool | None = None, *rest: Any, **keywords: Any) -> Any:
        """As in `Trainer`. From a checkpoint of another folder the run folder takes up what it lacks of the iteration."""
        if isinstance(resume_from_checkpoint, str) and self.is_world_process_zero():
            restore(self.run_folder, Path(resume_from_checkpoint))
        try:
            return super().train(resume_from_checkpoint, *rest, **keywords)
        finally:
            self.refreshes.close()

    # ---- as in Trainer ----------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs of the Trainer with both losses, the KL's value and the speed since the last ones."""
        if "loss" in logs:
            logs = {**logs, **self.progress.take(self.state.global_step)}
        super().log(logs, start_time)
