"""How the measured model writes."""

from __future__ import annotations

from adhere.evaluation.subject import Subject, write
from adhere.sampling.sampler import SamplingConfig


def test_outputs_come_in_the_order_of_the_prompts_and_repeat_with_their_seed(subject: Subject) -> None:
    how, told = SamplingConfig(max_new_tokens=4, batch_size=2), list[str]()
    prompts = ["a much longer prompt than the other", "b", "b"]
    samples = write(subject, prompts, how, 2, 5, lambda stage, done, total, note: told.append(stage), "rtp")
    assert [(s.prompt_index, s.replicate, s.prompt) for s in samples] == [
        (index, replicate, prompt) for index, prompt in enumerate(prompts) for replicate in (0, 1)
    ]
    assert told[-1] == "rtp ours"
    assert write(subject, prompts, how, 2, 5) == samples
    assert [s.output for s in write(subject, prompts, how, 2, 6)] != [s.output for s in samples]


def test_a_prompt_too_long_for_the_context_loses_its_beginning(subject: Subject) -> None:
    (sample,) = write(subject, ["z" * 600 + "end"], SamplingConfig(max_new_tokens=12))
    assert len(sample.prompt_ids) == 500
    assert sample.prompt.endswith("zend")
