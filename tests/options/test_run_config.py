"""Options: one name everywhere, checked where they enter, and it is always known where a value came from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compress.core.errors import ConfigError, TargetError
from compress.core.plan import Budget
from compress.options.help import BUDGETS, DEFAULTS, EFFORTS, GATE_HELP, HELP, METHODS, PRECISIONS, flag
from compress.options.run_config import RunConfig, make_config, resolve
from compress.options.table import OPTIONS
from compress.options.toml_file import DATA_SUFFIXES, commented_toml, find_config_file, read_config_file


@pytest.fixture(autouse=True)
def in_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text: str, path: str = "compress.toml") -> Path:
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_options_and_fields_are_the_same() -> None:
    assert list(HELP) == list(RunConfig.model_fields)
    config = make_config({"model": "m"})
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS


def _plain_types(annotation: Any) -> set[Any]:
    """What a field's annotation allows beside None: types, or the texts of a Literal."""
    parts = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return {one for part in parts for one in _plain_types(part)} - {type(None)} or {annotation}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_field_has_the_type_the_choices_and_the_bounds_that_the_table_states(name: str) -> None:
    option, field = OPTIONS[name], RunConfig.model_fields[name]
    stated = set(option.choices) if option.choices else {Path if name in ("profile", "output") else option.type}
    assert _plain_types(field.annotation) == stated
    if name not in ("model", "output"):
        assert field.default == option.default
    bounds = {key: getattr(part, key) for part in field.metadata for key in ("gt", "ge", "le") if hasattr(part, key)}
    assert bounds == {
        key: bound
        for key, bound in (("gt", option.above), ("ge", option.least), ("le", option.most))
        if bound is not None
    }


@pytest.mark.parametrize(
    ("name", "values"), [("method", METHODS), ("effort", EFFORTS), ("precision", PRECISIONS)], ids=lambda v: str(v)
)
def test_every_choice_is_accepted(name: str, values: tuple[str, ...]) -> None:
    for value in values:
        assert getattr(make_config({"model": "m", name: value}), name) == value


def test_command_line_over_file_over_target_over_default() -> None:
    file = write('model = "from-file"\ndata = "d.csv"\nsamples = 10\nseq_len = 32\nspeedup = 2.0\n')
    resolved = resolve({"seq_len": 64, "task": None}, file, require=("data", "budget"))
    assert (resolved.config.model, resolved.config.seq_len, resolved.config.samples) == ("from-file", 64, 10)
    assert resolved.config.budget == Budget("speedup", 2.0)
    assert resolved.origins["seq_len"] == "command line"
    assert resolved.origins["samples"] == "compress.toml"
    assert resolved.origins["precision"] == "target"
    assert resolved.origins["seed"] == "default"
    assert set(resolved.origins) == set(HELP)
    assert [name for name, _, _ in resolved.rows()] == list(HELP)


def test_a_budget_on_the_command_line_replaces_the_files_of_any_kind() -> None:
    file = write('model = "m"\nlatency_ms = 5.0\n')
    resolved = resolve({"macs": 0.5}, file, require=("budget",))
    assert resolved.config.budget == Budget("macs", 0.5)
    assert resolved.origins["latency_ms"] == "default"


@pytest.mark.parametrize("macs", [1, 1.0, 0.001])
def test_a_budget_that_prunes_nothing_is_no_error(macs: float) -> None:
    assert make_config({"model": "m", "macs": macs}).budget == Budget("macs", macs)
    assert make_config({"model": "m", "speedup": 0.5}).budget.value == 0.5


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"speedup": 2.0, "macs": 0.5}, ["--speedup 2.0", "--macs 0.5", "exactly one"]),
        ({"speedup": -2.0}, ["--speedup", "greater than 0", "-2.0"]),
        ({"speedup": 0.0}, ["--speedup", "greater than 0"]),
        ({"latency_ms": float("nan")}, ["--latency-ms", "finite"]),
        ({"latency_ms": float("inf")}, ["--latency-ms", "finite"]),
        ({"macs": 50.0}, ["--macs", "50.0", "fraction"]),
        ({"seq_len": 0}, ["--seq-len", "1", "got 0"]),
        ({"samples": -1}, ["--samples"]),
        ({"seed": -1}, ["--seed"]),
        ({"method": "magic"}, ["--method", "'full' or 'kwon'", "'magic'"]),
        ({"sequence_len": 8}, ["unknown option 'sequence_len'", "Did you mean 'seq_len'?"]),
        ({"model": ""}, ["MODEL"]),
        ({"precision": "int4"}, ["--precision", "'fp32'", "'int4'"]),
    ],
    ids=str,
)
def test_a_wrong_value_is_named(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        resolve({"model": "m", **values})
    assert error.value.exit_code == 3
    for word in words:
        assert word in str(error.value)
    assert "factory" not in str(error.value)


@pytest.mark.parametrize(("require", "word"), [("data", "--data"), ("budget", "--latency-ms")])
def test_what_is_required_and_absent_is_named(require: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        resolve({"model": "m"}, require=(require,))
    config = make_config({"model": "m"})
    assert config.budget_given is None
    with pytest.raises(ConfigError, match=word):
        _ = config.budget if require == "budget" else config.evaluation_data


def test_no_model() -> None:
    with pytest.raises(ConfigError, match="compress init"):
        resolve({})


def test_unknown_target_is_found_before_anything_runs() -> None:
    with pytest.raises(TargetError, match="Did you mean 'cpu'"):
        resolve({"model": "m", "target": "cppu"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("spedup = 2.0", ["spedup", "Did you mean 'speedup'?", "compress.toml"]),
        ("seq-len = 4", ["seq-len", "Write 'seq_len'."]),
        ("seq_len = ", ["not valid TOML"]),
        ('speedup = "2"', ["speedup", "number", "'2'", "(compress.toml)"]),
        ("seq_len = true", ["seq_len", "integer", "True"]),
        ("data = 3", ["data", "string"]),
        ("speedup = 2.0\nmacs = 0.5", ["exactly one", "compress.toml"]),
        ("[gate]\nmax_sise_mb = 3", ["[gate]", "max_sise_mb", "Did you mean 'max_size_mb'?"]),
        ("gate = 3", ["[gate]"]),
        ("[target]\nname = 'cpu'", ["target", "string"]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_wrong_file_is_explained(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        resolve({"model": "m"}, write(text))
    for word in words:
        assert word in str(error.value)


def test_files_that_cannot_be_read() -> None:
    Path("latin.toml").write_bytes(b'model = "\xe9"')
    for path in (Path("absent.toml"), Path("latin.toml"), Path(".")):
        with pytest.raises(ConfigError, match="cannot read"):
            read_config_file(path)
    with pytest.raises(ConfigError, match="compress init"):
        find_config_file("absent.toml")


def test_the_default_file_is_found_in_the_current_directory() -> None:
    assert find_config_file() is None
    write("")
    assert find_config_file() == Path("compress.toml")


def test_gate_table_is_kept() -> None:
    _, gate = read_config_file(write('[gate]\nmax_size_mb = 50\nmax_drop = "2 %"\ndevice = "EPYC"'))
    assert [str(limit) for limit in gate.limits] == ["50 MB", "2 % of dense"] and gate.device == "EPYC"


def test_relative_places_are_relative_to_the_file() -> None:
    Path("project/models/mine").mkdir(parents=True)
    file = write(
        'model = "models/mine"\ndata = "train.csv"\neval_data = "org/hub-data"\noutput = "out"\nprofile = "p.json"\n'
        "speedup = 2.0\n",
        "project/compress.toml",
    )
    config = resolve({}, file).config
    assert config.model == "project/models/mine"
    assert config.data == "project/train.csv"
    assert config.eval_data == "org/hub-data"  # not on disk and not written as a path: a hub name
    assert config.output == Path("project/out")
    assert config.profile == Path("project/p.json")
    # What the command line names is relative to where the command was given.
    assert resolve({"data": "train.csv"}, file).config.data == "train.csv"


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"model": "a/minilm-sst2", "speedup": 1.7}, "minilm-sst2-cpu-1.7x"),
        ({"model": "a/minilm-sst2/", "latency_ms": 5}, "minilm-sst2-cpu-5ms"),
        ({"model": "org/name with space", "macs": 0.5}, "name-with-space-cpu-0.5macs"),
        ({"model": "m"}, "m-cpu-dense"),
        ({"model": "m", "target": "boards/jetson.toml", "macs": 0.5}, "m-jetson-0.5macs"),
    ],
    ids=str,
)
def test_default_output(values: dict[str, object], name: str) -> None:
    assert make_config(values).output == Path("artifacts") / name


def test_a_configuration_survives_json() -> None:
    config = make_config({"model": Path("m"), "speedup": 2, "output": "out", "profile": Path("p.json")})
    assert make_config(config.model_dump(mode="json")) == config


# Names of data files are read as places beside the file too.
PLACES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: not text.startswith(("~", ".", "/")) and Path(text).suffix not in DATA_SUFFIXES
)


@given(
    model=PLACES,
    column=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"])),
    speedup=st.floats(min_value=1e-6, max_value=1e6),
    samples=st.integers(1, 10**9),
    label_free=st.booleans(),
)
@example(model="longer than a file's name" * 20, column="", speedup=2.0, samples=1, label_free=False)
def test_init_writes_what_it_was_given(
    tmp_path_factory: pytest.TempPathFactory, model: str, column: str, speedup: float, samples: int, label_free: bool
) -> None:
    values = {
        "model": model,
        "text_column": column,
        "speedup": speedup,
        "samples": samples,
        "label_free": label_free,
    }
    file = tmp_path_factory.mktemp("init") / "compress.toml"
    file.write_text(commented_toml(values), encoding="utf-8", newline="")
    assert read_config_file(file)[0] == values


def test_every_comment_of_init_is_a_valid_line() -> None:
    # Uncommented one by one, every suggested line is accepted.
    options, _, limits = commented_toml({"model": "m"}).partition("# [gate]")
    for text, heading, count in ((options, "", len(HELP) - 1), (limits, "[gate]\n", len(GATE_HELP))):
        suggestions = [line[2:] for line in text.splitlines() if line.startswith("# ") and " = " in line]
        assert len(suggestions) == count
        for line in suggestions:
            if line.split(" = ")[0] != "target":
                resolve({"model": "m"}, write(heading + line))


def test_flags() -> None:
    assert flag("seq_len") == "--seq-len"
    assert flag("model") == "MODEL"
    assert set(BUDGETS) < set(HELP)
