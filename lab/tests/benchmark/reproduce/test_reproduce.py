"""stepmask reproduce on tiny stand-ins: every table and figure once, that it goes on where it was, errors in words."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from refusal import check_refused
from small import ldm_pipeline, pixart_pipeline
from stepmask import StepMask
from stepmask.cli import app
from stepmask_lab import reference
from stepmask_lab.benchmark import compare
from stepmask_lab.reference.conditioning import trainable
from stepmask_lab.reference.half_precision import write_weights
from stepmask_lab.reproduce import (
    Bench,
    Options,
    OwnModel,
    ablation_table,
    comparison_table,
    rectification,
    table_lines,
    tables,
)
from stepmask_lab.reproduce.full_size import full_size
from stepmask_lab.reproduce.paper import (
    CONSISTENCY,
    DEEPCACHE,
    DIFF_PRUNING,
    DIP_GO,
    DITFASTATTN,
    FEWER,
    FORA,
    L2C,
    MASKING,
    ORIGINAL,
    TABLES,
)
from stepmask_lab.reproduce.table_lines import CHANGES, OURS, comparison_lines
from stepmask_lab.rivals.consistency import student
from stepmask_lab.rivals.diff_pruning import pruned
from tiny import FEWEST, ddim_pipeline, dit_pipeline

STAND_INS = {
    "ddpm-cifar10": ddim_pipeline, "ldm-cifar10": ldm_pipeline, "dit-cifar10": dit_pipeline,
    "pixart-cifar10": pixart_pipeline,
}  # fmt: skip
QUICK = {"steps": 4, "num_images": 2, "trajectories": 1, "rounds": 0, "batch_size": 2, "speed": False, "scores": False}
WORDS = [f"--{name.replace('_', '-')}={value}" for name, value in QUICK.items() if not isinstance(value, bool)]
UNETS = ("ddpm-cifar10-32", "ldm4-imagenet-256")
SOME = ["table1", "table5", "figures"]
FURTHER = ["table2", "table3", "table4"]


def quickly(learned):
    """Our learner with few images and large steps; the others as they are."""

    def call(*arguments, **options):
        return learned(*arguments, **({} if "method" in options else FEWEST), **options)

    return call


@pytest.fixture(scope="module", autouse=True)
def stand_ins(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "load", lambda name, dtype=None: STAND_INS[name]())
        patch.setattr(table_lines, "learned", quickly(table_lines.learned))
        patch.setattr(tables, "full_size", lambda model, router: full_size(TABLES["table1"][0]))  # the quickest
        keep_other_models(tmp_path_factory.mktemp("weights"), patch)
        yield


def keep_other_models(folder, patch):
    """Models that count as pruned and as distilled: the stand-ins themselves."""
    for module, model, name in (
        (pruned, trainable(ddim_pipeline()), "ddpm-cifar10"),
        (pruned, trainable(ldm_pipeline()), "ldm-cifar10"),
        (student, ddim_pipeline().unet, "ddpm-cifar10"),
    ):
        part = folder / module.__name__
        patch.setattr(module, "WEIGHTS", part)
        write_weights(model, part / f"{name}.safetensors")
        (part / f"{name}.json").write_text(json.dumps({"ratio": 0.3, "core_hours": 0.5}))


def call(*arguments, code=0):
    """Run the verb; returns its result."""
    words = ["reproduce", *map(str, arguments), *WORDS, "--no-speed", "--no-scores"]
    result = CliRunner(env={"COLUMNS": "120", "TERM": "dumb"}).invoke(app, words)
    if result.exit_code != code:
        raise AssertionError(f"exit code {result.exit_code}: {result.output}") from result.exception
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A comparison, an ablation and the figures, made by the command."""
    path = tmp_path_factory.mktemp("reproduce") / "new"
    path.mkdir()
    (path / "said.txt").write_text(call(*SOME, "-o", path).stdout)
    return path


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """The further tables too."""
    path = tmp_path_factory.mktemp("whole") / "new"
    shutil.copytree(folder, path)
    call(*FURTHER, "-o", path)
    return path


def each(*tables):
    """A table, and the fixture that makes it."""
    return pytest.mark.parametrize(
        ("table", "made"),
        [pytest.param(one, "whole", marks=pytest.mark.slow) if one in FURTHER else (one, "folder") for one in tables],
    )


def read(folder, name):
    return json.loads((folder / "results" / f"reproduce-{name}.json").read_text())


@each(*TABLES)
def test_comparisons_have_the_papers_number_beside_ours(table, made, request):
    result = read(request.getfixturevalue(made), table)
    assert result["options"] == {**QUICK, "seed": 0, "guidance_scale": None}
    for model, known in zip(result["models"], TABLES[table], strict=True):
        assert [row["method"] for row in model["paper"]] == [row.method for row in known.rows]
        assert model["full_size"][0]["agrees"] and model["measured"] == known.reference
        methods = [row["method"] for row in model["rows"]]
        if known.reference is None:
            assert not methods
            continue
        assert methods[0] == ORIGINAL and methods[-2:] == [MASKING, OURS]
        assert (DEEPCACHE in methods, FORA in methods) == (known.preset in UNETS, known.preset not in UNETS)
        assert {DIFF_PRUNING, CONSISTENCY, DIP_GO} & {row.method for row in known.rows} <= set(methods)
        learned = [row for row in model["rows"] if row["seed"] is not None]
        assert all(row["macs"] <= known.share and row["train_seconds"] > 0 for row in learned)
        assert all(0 < row["conv_linear"] <= 1 for row in learned)
        assert model["circumstances"]["seeds"] == [10_000, 10_001]
        assert model["circumstances"]["scheduler"].startswith(known.sampler.partition("-")[0])


def test_rivals_of_the_paper_are_among_the_lines(folder):
    dit, pixart = (Bench(folder, Options(**QUICK)).run_of(TABLES[t][i]) for t, i in (("table2", 1), ("table3", 0)))
    assert [line.name for line in comparison_lines(dit)] == [ORIGINAL, FEWER, FORA, L2C, DIP_GO, MASKING, OURS]
    assert [line.name for line in comparison_lines(pixart)] == [ORIGINAL, FEWER, FORA, DITFASTATTN, MASKING, OURS]


def test_lines_of_other_models_say_what_their_training_took(folder):
    rows = [row for row in read(folder, "table1")["models"][0]["rows"] if row["method"] in (DIFF_PRUNING, CONSISTENCY)]
    assert [row["setting"] for row in rows] == ["0.3", "4", "2", "1"]
    assert [row["train_seconds"] for row in rows] == [1800] * 4
    assert rows[0]["macs"] == pytest.approx(1) and rows[0]["psnr_mean"] > 60, "it is the model itself in half precision"
    assert [row["macs"] for row in rows[1:]] == pytest.approx([1, 0.5, 0.25])
    said = (folder / "reproduce.md").read_text()
    assert "| consistency model, steps: 2 |" in said and "not run" not in said


@each(*CHANGES)
def test_ablations_share_the_unchanged_learner(table, made, request):
    folder = request.getfixturevalue(made)
    lines = {line["line"]: line for line in read(folder, table)["lines"]}
    assert all(line["ours"]["macs"] <= 0.557 for name, line in lines.items() if name in CHANGES[table])
    first = read(folder, "table1")["models"][0]["rows"][-2]
    assert next(iter(lines.values()))["ours"] == first
    for name, changes in CHANGES[table].items():
        path = next(folder.glob(f"masks/*-{lines[name]['ours']['method'].split(', ')[-1].replace(' ', '-').lower()}-*"))
        assert changes.items() <= StepMask.load(path).provenance["config"].items()


def test_without_rectification_is_the_same_mask_with_nothing_left_out(folder):
    lines = {line["line"]: line["ours"] for line in read(folder, "table5")["lines"]}
    whole, without = lines["block masking"], lines["without rectification"]
    assert without["macs"] > whole["macs"] and without["psnr_mean"] == whole["psnr_mean"]


def test_exact_elimination_leaves_images_alone_on_every_model(folder):
    rows = read(folder, "table5")["rectification"]
    assert [(row["model"], row["mask"]) for row in rows] == [(n, m) for n in STAND_INS for m in ("learned", "random")]
    for row in rows:
        decided, printed, exact = (row["plans"][name] for name in ("as decided", "Eq. 12", "exact"))
        assert exact["relative_l2"] == 0 and exact["psnr"] == decided["psnr"]
        assert exact["computes"] <= decided["computes"] and printed["computes"] <= decided["computes"]
    transformers = [row["plans"]["Eq. 12"] for row in rows if row["model"].startswith(("dit", "pixart"))]
    assert any(plan["relative_l2"] > 0 for plan in transformers), "its branches all reach the output"


def test_figures_and_page(folder):
    result = read(folder, "figures")
    assert len(result["changes"]) == QUICK["steps"] and result["delta"][0] == 0 and sum(result["scores_histogram"]) > 0
    page = (folder / "reproduce.md").read_text()
    for words, file in result["figures"]:
        assert f"![{words}](images/{file})" in page and (folder / "images" / file).stat().st_size > 1000
    options = "--steps 4 --num-images 2 --trajectories 1 --no-speed --no-scores"
    said = f"Made by `stepmask reproduce {' '.join(SOME)} {options}`"
    assert page.splitlines()[2].startswith(said)
    assert (folder / "said.txt").read_text().strip() == page.strip()
    said = "| original | 100 | 0.61 | 0.6054 | 0.6054 | 0.6054 / 0.6222 | yes |"
    assert said in page and "| without loss scaling | 1.62x | 4.74 |" in page and "no FIDs" in page


def test_nothing_is_measured_twice(folder, monkeypatch):
    for module in (compare, rectification):
        monkeypatch.setattr(module, "evaluate", lambda *args, **kwargs: pytest.fail("evaluated again"))
    bench = Bench(folder, Options(**QUICK))
    again = {"table1": comparison_table("table1", bench), "table5": ablation_table("table5", bench)}
    assert json.loads(json.dumps(again)) == {name: read(folder, name) for name in again}


@pytest.mark.slow
def test_an_interrupted_table_goes_on(tmp_path, monkeypatch):
    evaluate, calls = compare.evaluate, []

    def failing(*args, **kwargs):
        calls.append(kwargs)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    monkeypatch.setattr(compare, "evaluate", failing)
    with pytest.raises(KeyboardInterrupt):
        ablation_table("table4", Bench(tmp_path, Options(**QUICK)))
    lines = ablation_table("table4", Bench(tmp_path, Options(**QUICK)))["lines"]
    assert len(calls) == len(lines) + 1, "only the one that failed was tried again"


def test_a_folder_keeps_to_its_options(folder):
    check_refused(r"other options \(num_images 2, now 64; trajectories 1, now 8", Bench, folder, Options())


def test_a_model_of_the_users_stands_for_what_it_is(tmp_path):
    pipe = dit_pipeline()
    bench = Bench(tmp_path, Options(**QUICK), OwnModel("facebook/DiT-XL-2-512", pipe))
    measured = [bench.run_of(model) for model in TABLES["table2"]]
    assert [run and run.model.name for run in measured] == [None, None, "DiT-XL/2, ImageNet 512"]
    assert measured[2].subject.pipe is pipe and measured[2].subject.targets == (0.681,)
    bench.check_own(["table2"])
    check_refused("is a DiTTransformer2DModel, table1 has UNet2DModel: give google/ddpm", bench.check_own, ["table1"])
    check_refused(r"of a DDPM for CIFAR-10, facebook/DiT-XL-2-512 is none", ablation_table, "table4", bench)


def test_only_macs_needs_no_model(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "load", lambda *args: pytest.fail("loaded"))
    page = call("table2", "table4", "figures", "--macs-only", "-o", tmp_path).stdout
    assert page.splitlines()[2].startswith("Made by `stepmask reproduce table2 table4 --macs-only`; raw")
    assert "Nothing was sampled" in page and "| random sampling | 1.63x | 4.66 | – |" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "reproduce.md", "results"]


def test_a_model_that_cannot_be_had_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = call("table1", "--model", "google/no-such-ddpm-here", "-o", tmp_path, code=2)
    assert "error: there is no such folder here as google/no-such-ddpm-here, and the hub" in result.stderr
