"""Bad input: one sentence, exit code 2, nothing half-written."""

import json
import os
import warnings

import pytest

import stepmask
from command_line import words
from stepmask import StepMask


def test_model_that_cannot_be_found(run, mask_file, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "model_index.json" in words(run("describe", tmp_path / "empty", code=2))
    assert "ddpm-cifar10" in words(run("describe", "reference:nope", code=2))
    assert "no such folder" in words(run("describe", tmp_path / "nope", code=2))


def test_mask_files(run, folder, mask_file, family_file, edited, tmp_path):
    bad = tmp_path / "bad.json"
    assert "No such file" in words(run("show", bad, code=2))
    for whole, options in ((mask_file, ()), (family_file, ("--at", 0.5))):
        bad.write_text(whole.read_text()[:200])
        assert "cut short" in words(run("show", bad, *options, code=2))
    assert "format version 99" in words(run("evaluate", folder, "--mask", edited(format_version=99), code=2))


def test_warnings_are_sentences(run, mask_file, monkeypatch):
    def loaded(*_, **__):
        warnings.warn("mind the gap", stacklevel=2)
        return StepMask.load(mask_file)

    monkeypatch.setattr("stepmask.cli.show.load_one", loaded)
    said = run("show", mask_file).stderr
    assert said.startswith("warning: mind the gap\n") and "UserWarning" not in said


@pytest.fixture
def edited(mask_file, tmp_path):
    """A file with the mask after a change of its entries."""

    def edit(part: str | None = None, **changes):
        content = json.loads(mask_file.read_text())
        changed = content
        for name in part.split(".") if part else ():
            changed = changed[name]
        changed.update(changes)
        (tmp_path / "edited.json").write_text(json.dumps(content))
        return tmp_path / "edited.json"

    return edit


@pytest.mark.parametrize("verb", ["describe", "evaluate", "learn", "sample"])
def test_guidance_of_a_pipeline_that_has_none(verb, run, folder, mask_file, tmp_path):
    more = {
        "evaluate": ["--mask", mask_file],
        "learn": ["-o", tmp_path / "m.json", "--steps", 4],
        "sample": ["--mask", mask_file, "-o", tmp_path / "s"],
    }
    text = words(run(verb, folder, "--guidance-scale", 2.5, *more.get(verb, []), code=2))
    assert "the call of DDIMPipeline takes no guidance_scale: leave it out; it takes batch_size, generator" in text


def test_what_does_not_go_together(run, folder, dit_folder, mask_file, edited, tmp_path):
    mask, out = edited("provenance", noise_seeds=[10_000, 10_003]), tmp_path / "m.json"
    for says, *verb in (
        ("used to learn", "evaluate", folder, "--mask", mask),
        ("another model", "evaluate", dit_folder, "--mask", mask_file),
        ("never scales its noise", "learn", dit_folder, "-o", out, "--scheduler", "heun", "--steps", 4),
        ("guidance must be a finite number", "learn", dit_folder, "--guidance-scale", "nan", "-o", out),
        ("abacus", "learn", folder, "--device", "abacus", "-o", out),
    ):
        assert says in words(run(*verb, code=2)) and not out.exists()


@pytest.mark.parametrize(("options", "says"), [
    (["--method", "paper", "--sampling", "dice"], "sampling must be one of"),
    (["--num-probes", 0], "num_probes must be a number between"),
    (["--num-trajectories", 2], "method='end-to-end' has no option 'num_trajectories'"),
    (["--method", "paper", "--no-forecast"], "method='paper' has no option 'forecast'"),
    (["--target-macs", 0.5, "--min-psnr", 30], "--target-macs and --min-psnr exclude each other"),
    (["--targets", "0.5,0.4", "--target-speedup", 2], "--targets and --target-speedup exclude each other"),
    (
        ["--target-macs", 0.5, "--target-speedup", 2, "--min-psnr", 30],
        "--target-macs and --target-speedup and --min-psnr exclude each other",
    ),
    (["--method", "paper", "--target-macs", 0.5, "--target-speedup", 2], "does not know target_speedup"),
    (["--target-speedup", 2, "--speed-batch-size", 0], "speed_batch_size must be a number between 1 and"),
    (["--targets", "0.5;0.4"], "--targets takes shares between 0 and 1, 0.7,0.6,0.5 for example, got '0.5;0.4'"),
    (["--targets", "50,40"], "got '50,40'"),
    (["--targets", ""], "got ''"),
    (["--target-speedup", 0.5], "target_speedup is a factor of at least 1"),
    (["--min-psnr", -3], "min_psnr is in dB"),
    (["--max-cache-mib", 0], "--max-cache-mib must be a positive number, got 0"),
    (["--max-cache-mib", "inf"], "--max-cache-mib must be a positive number, got inf"),
    (["--max-minutes", -1], "max_minutes must be a positive number of minutes, got -1"),
    (["--method", "paper", "--max-minutes", 1], "method 'paper' does not know max_minutes"),
    (["--method", "paper", "--min-psnr", 30, "--max-cache-mib", 1], "does not know min_psnr, max_cache_bytes"),
    (["--method", "paper", "--targets", "0.5"], "method 'paper' does not know targets"),
])  # fmt: skip
def test_options_that_make_no_sense_fail_before_the_model_is_loaded(options, says, run, tmp_path):
    text = words(run("learn", tmp_path / "nope", "-o", tmp_path / "m.json", *options, code=2))
    assert says in text and "nope" not in text


@pytest.mark.parametrize("verb", ["show", "evaluate", "sample"])
def test_at_belongs_to_families_and_families_need_it(verb, run, mask_file, family_file, tmp_path):
    def call(file, *options):
        rest = {"show": [file], "evaluate": [tmp_path, "--mask", file], "sample": [tmp_path, "--mask", file, "-o", "x"]}
        return words(run(verb, *rest[verb], *options, code=2))

    assert "holds a single mask: leave --at out" in call(mask_file, "--at", 0.5)
    listed = call(family_file)
    assert "a family of 3 masks" in listed and "1.000 (60.0 dB), 0.500 (30.0 dB), 0.334 (20.0 dB)" in listed
    assert "no mask of this family has at most 0.2" in call(family_file, "--at", 0.2)
    assert "StepMask(4 steps" in run("show", family_file, "--at", 0.334).stdout, "what is listed can be given"


def test_output_that_is_a_folder_or_below_a_file(run, folder, mask_file, tmp_path):
    assert "is a folder" in words(run("learn", folder, "-o", tmp_path, code=2))
    assert "cannot write" in words(run("sample", folder, "--mask", mask_file, "-o", mask_file / "x", code=2))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_write_permission(run, folder, tmp_path):
    tmp_path.chmod(0o500)
    assert "cannot write" in words(run("learn", folder, "-o", tmp_path / "m.json", code=2))


@pytest.mark.parametrize("verb", ["sample", "evaluate"])
def test_steps_are_those_of_the_mask(verb, run, mask_file):
    text = words(run(verb, "nothing", "--mask", mask_file, "--steps", 20, code=2))
    assert "the number of steps comes from the mask" in text


def test_interrupt_keeps_the_state_and_the_old_mask(run, folder, mask_file, tmp_path, monkeypatch):
    def interrupted(pipe, *, resume, **options):
        resume.write_bytes(b"state")
        raise KeyboardInterrupt

    monkeypatch.setattr(stepmask, "learn", interrupted, raising=False)
    old = tmp_path / "mask.json"
    old.write_text(mask_file.read_text())
    result = run("learn", folder, "-o", old, "--resume", tmp_path / "state.safetensors", code=130)
    assert "run the same command again" in " ".join(result.stderr.split()) and "interrupted" in result.stderr
    assert StepMask.load(old) == StepMask.load(mask_file)


# --- what a stranger found


@pytest.mark.parametrize(("part", "change", "expected"), [
    ("scheduler", {"class": "DDIMPipeline"}, "no scheduler"),
    ("scheduler.config", {"beta_schedule": "foo"}, "the scheduler that the mask names cannot be made"),
    ("scheduler.config", {"num_train_timesteps": "many"}, "the scheduler that the mask names cannot be made"),
    ("scheduler.config", {"num_train_timesteps": 3}, "makes no run of 4 steps"),
    ("scheduler.config", {"num_train_timesteps": 2 * 10**8}, "cannot be made (num_train_timesteps = 2e+08)"),
    ("scheduler.config", {"clip_sample_range": "x"}, "cannot be made (clip_sample_range = 'x')"),
    ("scheduler.config", {"steps_offset": 10**6}, "the scheduler that the mask names cannot be made"),
    ("scheduler.config", {"prediction_type": "nope"}, "the scheduler that the mask names cannot be made"),
    ("scheduler.config", {"prediction_type": "x" * 10**6}, "prediction_type is a text of 1000000 letters"),
    ("scheduler.config", {"trained_betas": [0.1, 0.2]}, "trained_betas has 2 numbers for 1000 steps"),
    ("scheduler.config", {"trained_betas": [{}]}, "cannot be made (trained_betas is list)"),
    ("scheduler.config", {"thresholding": True, "sample_max_value": "x"}, "cannot be made (sample_max_value = 'x')"),
    ("scheduler.config", {"thresholding": "yes"}, "cannot be made (thresholding = 'yes')"),
    ("scheduler", {"class": "SchedulerMixin", "config": {}}, "no scheduler 'SchedulerMixin'"),
    ("scheduler", {"class": "ScoreSdeVeScheduler", "config": {}}, "is not stepped by output, timestep and sample"),
    ("scheduler", {"class": "KarrasVeScheduler", "config": {}}, "is not stepped by output, timestep and sample"),
    ("scheduler", {"class": "RePaintScheduler", "config": {}}, "is not stepped by output, timestep and sample"),
    ("scheduler", {"class": "DDPMWuerstchenScheduler", "config": {}}, "set it on the pipeline yourself"),
    ("provenance", {"num_inference_steps": "five"}, "must be a whole number of steps, got 'five'"),
    ("provenance", {"noise_seeds": 5}, '"noise_seeds" in provenance must be'),
    ("provenance", {"noise_seeds": ["a", 3]}, '"noise_seeds" in provenance must be'),
    ("provenance", {"guidance_scale": "high"}, '"guidance_scale" in provenance must be'),
])  # fmt: skip
def test_a_mask_with_a_nonsensical_scheduler_or_provenance(part, change, expected, run, folder, edited):
    verb = ["show"] if part == "provenance" else ["evaluate", folder, "--mask"]
    assert expected in words(run(*verb, edited(part, **change), code=2))


@pytest.mark.parametrize("provenance", [{"psnr": 45}, {"psnr": {"mean": 45}, "macs": 0.5}, {"psnr": {}, "asked": 3}])
def test_provenance_says_what_it_likes(provenance, run, edited):
    shown = " ".join(run("show", edited(provenance=provenance)).stdout.split())
    assert "when learned: the mask does not say it in a form that stepmask knows" in shown


@pytest.mark.parametrize(("verb", "call", "says"), [
    ("sample", "eta=foo", "the call of DDIMPipeline failed (TypeError: "),
    ("evaluate", "eta=foo", "the call of DDIMPipeline failed (TypeError: "),
    ("learn", "output_type=latent", "the call of DDIMPipeline failed ("),
])  # fmt: skip
def test_call_values_that_the_pipeline_does_not_take(
    verb, call, says, run, folder, quick, mask_file, tmp_path, monkeypatch
):
    more = ["-o", tmp_path / "m.json", *quick] if verb == "learn" else ["--mask", mask_file, "-n", 1]
    more += ["-o", tmp_path / "images"] if verb == "sample" else []
    line = [verb, folder, *more, "--call", call]
    result = run(*line, code=2)
    assert f"error: {says}" in " ".join(result.stderr.split()) and "Traceback" not in result.stderr
    monkeypatch.setenv("STEPMASK_TRACEBACK", "1")
    with pytest.raises(AssertionError) as caught:
        run(*line, code=2)
    assert caught.value.__cause__.of_the_call_of == "DDIMPipeline"


def test_a_class_that_there_is_not(run, dit_folder, tmp_path):
    line = ["learn", dit_folder, "-o", tmp_path / "m.json", "--steps", 4, "--call", "class_labels=99999"]
    assert "error: the call of DiTPipeline failed (" in " ".join(run(*line, code=2).stderr.split())


@pytest.mark.parametrize(("steps", "scheduler"), [(5000, "ddim"), (1001, "dpm++"), (3, "pndm")])
def test_steps_that_a_scheduler_cannot_make(steps, scheduler, run, folder, tmp_path):
    result = run("learn", folder, "--steps", steps, "--scheduler", scheduler, "-o", tmp_path / "m.json", code=2)
    assert f"makes no run of {steps} steps: ask for at least" in words(result)
