from adhere.report.run_files import RunFiles, SampleLine, TokenLine
from adhere.report.samples import FAILURES, LONGEST, SHOWN, sample_views


def line(index: int, score: float | None = 1.0, output: str = "fine", **fields: object) -> SampleLine:
    values = {"replicate": 0, "prompt": f"prompt {index}", "judge": {}, "masked_words": None, **fields}
    return SampleLine(prompt_index=index, output=output, verdicts={"clean": score}, **values)


def views(tmp_path, tokens=(), **samples):
    return sample_views(RunFiles(tmp_path, samples=samples, tokens=list(tokens)))


def text(pieces) -> str:
    return "".join(piece.cover or piece.text for piece in pieces)


def test_prompts_are_spread_over_all_and_the_models_stand_in_order(tmp_path):
    made = views(tmp_path, constrained=[line(i) for i in range(40)], sft=[line(i) for i in range(40)])
    assert [view.index for view in made.spread] == list(range(0, 40, 40 // SHOWN))
    assert [output.model for output in made.spread[0].outputs] == ["sft", "constrained"]
    assert made.prompts == 40


def test_failures_of_the_constrained_model_are_shown_not_hidden(tmp_path):
    failing = [line(i, 0.0 if i % 2 else 1.0) for i in range(40)]
    made = views(tmp_path, constrained=failing, sft=[line(i, 0.0) for i in range(40)])
    assert [view.index for view in made.failures] == [1, 3, 5, 7, 9, 11][:FAILURES]
    assert made.failed == 20


def test_an_output_without_a_verdict_is_neither_satisfied_nor_a_failure(tmp_path):
    made = views(tmp_path, constrained=[line(0, None, judge={"second": 0.2})])
    states = [(badge.label, badge.state) for badge in made.spread[0].outputs[0].badges]
    assert states == [("clean", "unjudged"), ("second judge, second", "violated")]
    assert made.failed == 0


def test_only_the_first_output_of_a_prompt_is_shown(tmp_path):
    made = views(tmp_path, sft=[line(0, output="first"), line(0, output="second", replicate=1)])
    assert text(made.spread[0].outputs[0].pieces) == "first"


def test_given_words_are_masked_and_no_others(tmp_path):
    made = views(tmp_path, sft=[line(0, output="shit and mud", masked_words=("mud",)), line(1, output="shit and mud")])
    assert [text(view.outputs[0].pieces) for view in made.spread] == ["shit and m••", "s••• and mud"]


def test_profane_words_are_masked_in_satisfied_outputs_and_prompts_too(tmp_path):
    made = views(tmp_path, constrained=[line(0, 1.0, output="no shit", prompt="the shit")])
    assert text(made.spread[0].pieces) == "the s•••"
    assert text(made.spread[0].outputs[0].pieces) == "no s•••"


def test_a_very_long_output_is_cut_and_what_is_left_out_is_told(tmp_path):
    made = views(tmp_path, sft=[line(0, output="word " * 1_000_000)])
    output = made.spread[0].outputs[0]
    assert len(text(output.pieces)) == LONGEST and output.cut == 5_000_000 - LONGEST


def test_tokens_keep_their_values_and_words_cut_in_two_are_masked(tmp_path):
    tokens = TokenLine("so", (" bull", "shit", "!"), (0.4, 0.1, 0.1), "sft", "clean", None)
    (made,) = views(tmp_path, [tokens]).tokens
    assert made.label == "plain fine-tuning, clean"
    assert [(text(token.pieces), token.value) for token in made.tokens] == [(" b•••", 0.4), ("••••", 0.1), ("!", 0.1)]


def test_every_model_has_tokens_to_show_however_many_another_has(tmp_path):
    many = [TokenLine("", (str(number),), (0.5,), "sft", "clean", None) for number in range(40)]
    made = views(tmp_path, [*many, TokenLine("", ("x",), (0.5,), "constrained", "clean", None)])
    assert [view.label for view in made.tokens] == ["plain fine-tuning, clean"] * 6 + ["constrained fine-tuning, clean"]


def test_no_samples_make_empty_views(tmp_path):
    made = views(tmp_path)
    assert (made.spread, made.failures, made.tokens, made.prompts) == ([], [], [], 0)
