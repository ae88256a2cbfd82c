"""The launcher's configurations that are shipped: accelerate reads them, and they say what training here needs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


def test_there_is_one_for_each_way() -> None:
    assert [path.stem for path in SHIPPED] == ["ddp", "deepspeed_zero2", "fsdp2"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_launcher_reads_it_and_it_says_how_it_is_started(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))  # refuses unknown keys
    assert (config.num_machines, config.machine_rank) == (1, 0)
    text = path.read_text(encoding="utf-8")
    assert f"accelerate launch --config_file recipes/accelerate/{path.name} --num_processes 8 -m adhere train" in text
    assert config.mixed_precision in ("no", None)  # the recipe decides


def test_fsdp_shards_layer_by_layer_and_leaves_every_process_the_whole_model_at_first() -> None:
    settings = yaml.safe_load((ROOT / "recipes/accelerate/fsdp2.yaml").read_text(encoding="utf-8"))["fsdp_config"]
    assert settings["fsdp_version"] == 2 and settings["fsdp_auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"
    assert settings["fsdp_cpu_ram_efficient_loading"] is False


def test_deepspeed_leaves_weights_whole_and_the_rest_to_the_recipe() -> None:
    config = yaml.safe_load((ROOT / "recipes/accelerate/deepspeed_zero2.yaml").read_text(encoding="utf-8"))
    settings = json.loads((ROOT / config["deepspeed_config"]["deepspeed_config_file"]).read_text(encoding="utf-8"))
    assert settings["zero_optimization"]["stage"] == 2
    assert settings["train_micro_batch_size_per_gpu"] == settings["gradient_clipping"] == "auto"
    assert settings["bf16"]["enabled"] == "auto"
