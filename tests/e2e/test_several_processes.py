"""What processes do together: equal plans, one voice, and one end for all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress import cli
from compress.core.errors import EXIT_ERROR
from compress.data.batches import Encoded
from compress.distributed.broadcast import packed, unpacked
from compress.distributed.group import Place
from compress.pipeline.helper import take_part
from support.data import TEXTS, write_rows
from support.examples import examples
from support.processes import finish, start, together
from support.runs import check_verdict


def images(count: int) -> Encoded:
    rng = np.random.default_rng(0)
    rows = [rng.random((3, 4, 4), dtype=np.float32) for _ in range(count)]
    return Encoded({"pixel_values": rows}, np.arange(count), {"pixel_values": 0}, positions=5)


@pytest.mark.parametrize(
    "data", [examples(), examples(1), examples(labels=False), examples().select([]), images(3), images(0)]
)
def test_examples_arrive_as_they_were(data: Encoded) -> None:
    again = unpacked(*packed(data))
    assert again.fingerprint() == data.fingerprint() and again.positions == data.positions
    assert (again.labels is None) == (data.labels is None)
    assert [batch.indices.tolist() for batch in again.batches(2)] == [b.indices.tolist() for b in data.batches(2)]


@pytest.mark.parametrize("arguments", [["verify", "out"], ["--debug", "targets"], ["--version"], []])
def test_commands_with_nothing_to_share_run_once(arguments: list[str]) -> None:
    called: list[int] = []
    codes = [take_part(Place(rank, 3, 3), arguments, lambda: called.append(1) or 2) for rank in range(3)]
    assert codes == [2, 0, 0] and len(called) == 1


@pytest.fixture(scope="module")
def many_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough for every process: 160 texts of different lengths, five batches."""
    rows: list[dict[str, Any]] = [
        {"text": " ".join(text.split()[: 1 + (7 * number) % 9]), "label": int(name == "positive")}
        for number, (text, name) in enumerate(TEXTS * 16)
    ]
    return write_rows(tmp_path_factory.mktemp("many") / "rows.csv", rows)


# `python -m compress` that times for a moment.
BRIEFLY = """
import pytest
from compress.__main__ import main
from support.runs import measure_briefly
with pytest.MonkeyPatch.context() as patch:
    measure_briefly(patch)
    main()
"""


def command(verb: str, model: Path, data: Path, *more: str) -> list[str]:
    fixed = ["--macs", "0.5", "--seq-len", "16", "--search-seconds", "0"]
    return ["-m", "compress", verb, str(model), "--allow-chance", "--data", str(data), *fixed, *more]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "kwon"])
def test_two_processes_give_the_plan_of_one(
    method: str, tiny_bert: Path, many_rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def arguments(path: Path) -> list[str]:
        return command("plan", tiny_bert, many_rows, "--method", method, "--label-free", "--output", str(path))

    one, two = tmp_path / "plan1.json", tmp_path / "plan2.json"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert cli.main(arguments(one)[2:]) == 0
    finally:
        torch.set_num_threads(threads)
    assert capsys.readouterr().out.endswith(f"plan: {one}\n")
    first, second = together(*arguments(two))
    assert first[0] == 0 and first[1].endswith(f"plan: {two}\n"), first
    # One voice: the other prints nothing at all.
    assert second == (0, "", "")
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_a_users_error_ends_all(tmp_path: Path, many_rows: Path) -> None:
    first, second = together(*command("plan", tmp_path / "nothing", many_rows))
    assert first[0] == EXIT_ERROR and "nothing" in first[2] and "Traceback" not in first[2]
    assert second == (0, "", "")


@pytest.mark.slow
def test_a_process_with_other_weights_is_named(make_checkpoint: Any, many_rows: Path, tmp_path: Path) -> None:
    # Another working directory is like another machine: the same name, something else under it.
    for folder, seed in (("here", 0), ("there", 1)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model").symlink_to(make_checkpoint("bert", seed=seed))
    script = (
        "import os, sys; places = sys.argv[1:3]; del sys.argv[1:3]; os.chdir(places[int(os.environ['RANK'])])\n"
        "from compress.__main__ import main; main()"
    )
    arguments = command("plan", Path("model"), many_rows, "--output", "plan.json")[2:]
    first, second = finish(start(["-c", script, str(tmp_path / "here"), str(tmp_path / "there"), *arguments]))
    assert first[0] == EXIT_ERROR, first
    assert "process 1: 'model' has other weights here than on the machine of the first process" in first[2]
    assert second[0] == EXIT_ERROR and second[2] == ""
    assert not (tmp_path / "here" / "plan.json").exists()


RECIPE = """
[structure]
scorer = "fisher"
epochs = 1.0
batch_size = 16
project_every = 2
[weights]
epochs = 1.0
batch_size = 16
[validation]
held_out = 0.2
times = 2
"""


@pytest.mark.slow
def test_two_processes_fine_prune(one_layer: Path, many_rows: Path, tmp_path: Path) -> None:
    recipe, output = tmp_path / "own.toml", tmp_path / "out"
    recipe.write_text(RECIPE, encoding="utf-8")
    more = ["--fine-prune", str(recipe), "--checkpoints", str(tmp_path / "kept"), "--effort", "fast"]
    precision = ["--precision", "fp32", "--output", str(output), "--json"]
    arguments = command("run", one_layer, many_rows, *more, *precision)[2:]
    first, second = together("-c", BRIEFLY, *arguments)
    assert first[0] in (0, 1, 2) and second == (0, "", ""), (first, second)
    check_verdict(output, first[0])
    manifest = json.loads((output / "manifest.json").read_text())
    phases = manifest["reconstruction"]["fine_pruned"]["phases"]
    assert [phase["name"] for phase in phases] == ["structure", "weights"]
    assert json.loads(first[1])["exit_code"] == first[0]
    assert len((output / "training.csv").read_text().splitlines()) == 5
