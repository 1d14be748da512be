"""Rules that decide during the run: their sums and signs, images that decide each for itself, what they cost."""

import numpy as np
import pytest
import torch

from gate import in_gate
from stepmask.inspection.registry import denoiser_of
from stepmask.runtime.noise import Noise
from stepmask_lab.benchmark.compare import spread_of
from stepmask_lab.benchmark.rivals_of_2026 import rivals_of_2026
from stepmask_lab.method import Adaptive, Subject
from stepmask_lab.rivals.adaptive_run import adaptive
from stepmask_lab.rivals.easycache.rule import EasyCache
from stepmask_lab.rivals.sada.rule import Sada
from stepmask_lab.rivals.seacache.rule import SeaCache, filtered
from stepmask_lab.unmasked import evaluate_unmasked
from tiny import ddim_pipeline, dit_pipeline, generator

STEPS = 10
METHODS = {method.name: method for method in rivals_of_2026() if isinstance(method, Adaptive)}
PLAIN, GUIDED = {"guidance_scale": 1.0}, {"guidance_scale": 2.0}


class Alternating:
    """Computes at every second row, an odd image half of these; counts what it is told."""

    made = 0

    def __init__(self, num_rows):
        self.every = 2 if Alternating.made % 2 == 0 else 4
        Alternating.made += 1
        self.seen = []

    def computes(self, row, sample):
        return row % self.every == 0

    def computed(self, row, sample, output):
        self.seen.append((row, output.shape))

    def correction(self, row, sample):
        return None


@pytest.mark.parametrize(("make", "kwargs"), [(ddim_pipeline, {}), (dit_pipeline, PLAIN), (dit_pipeline, GUIDED)])
def test_images_of_a_batch_do_what_each_would_do_alone(make, kwargs):
    """Those that compute are called together; the halves of a guided batch are one image."""
    pipe = make()
    noise, sizes, images = Noise(pipe, STEPS, 0, kwargs), [], []
    first = next(module for name, module in denoiser_of(pipe).named_modules() if name in ("conv_in", "pos_embed"))
    hook = first.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    Alternating.made = 0
    with adaptive(pipe, Alternating) as run:
        together = noise.latents(0, 2)
    per_image = 2 if kwargs == GUIDED else 1
    assert run.work == [0.5, 0.3] and Alternating.made == 2
    hook.remove()
    Alternating.made = 0
    for number in range(2):
        with adaptive(pipe, Alternating) as alone:
            images.append(noise.latents(number, 1))
        assert alone.work == [run.work[number]]
    torch.testing.assert_close(together, torch.cat(images), rtol=0, atol=1e-5 * float(together.abs().max()))
    assert sizes == [2 * per_image, per_image, 2 * per_image, per_image, 2 * per_image]
    assert torch.equal(noise.latents(0, 2), Noise(pipe, STEPS, 0, kwargs).latents(0, 2)), "the pipeline is as it was"


def test_easycache_adds_up_what_the_rate_promises():
    """Inputs move by 1 a step and outputs by 0.5 for each, 0.0435 of 11.5 and less and less: 3, 4, 5 steps to 0.12."""
    rule = EasyCache(20, threshold=0.12)
    computed = []
    for row in range(20):
        sample = torch.full((1, 2, 2), float(row))
        if rule.computes(row, sample):
            computed.append(row)
            rule.computed(row, sample, 10 + sample[None] / 2)
    assert computed == [0, 1, 2, 3, 6, 10, 14, 19]
    flow = EasyCache(20, 0.1, adds_input=True)
    flow.computed(0, torch.ones(1, 2), torch.ones(1, 1, 2))
    assert torch.equal(flow.correction(1, torch.full((1, 2), 3.0)), torch.full((1, 2), 2.0))
    assert rule.correction(1, sample) is None


def test_the_filter_is_that_of_the_port_in_diffusers():
    sea_cache = pytest.importorskip("diffusers.hooks.sea_cache")
    sample = torch.randn(4, 8, 6, generator=generator())
    for noise in (0.9, 0.5, 0.05):
        theirs = sea_cache._apply_sea_filter(sample.movedim(0, -1)[None], noise, 2.0)[0].movedim(-1, 0)
        assert torch.allclose(filtered(sample, 1 - noise, noise), theirs, atol=1e-5)
    assert torch.allclose(filtered(sample, 1.0, 0.0), sample, atol=1e-4), "where there is no noise, nothing is left out"


def test_seacache_counts_changes_of_the_image():
    """Of a constant image all passes the filter, in scale; sums of 1, 1/2, 1/3, 1/4 and so on."""
    rule = SeaCache([0.5] * 8, [0.5] * 8, threshold=0.6)
    samples = [torch.full((1, 4, 4), float(row + 1)) for row in range(8)]
    assert [rule.computes(row, sample) for row, sample in enumerate(samples)] == [1, 1, 0, 1, 0, 0, 1, 1]


def test_sada_skips_where_the_estimate_errs_against_the_bend():
    """A run whose derivative is constant has no bend, and is skipped as much as is allowed, and where it is."""
    signal, noise = [1.0] * 50, np.linspace(1, 0.02, 50).tolist()
    for most, share in ((1, 0.5), (4, 0.8)):
        rule, skipped = Sada(signal, noise, [0.0] * 50, most), []
        for row in range(50):
            if not rule.computes(row, torch.full((1, 2, 2), noise[row])):
                skipped.append(row)
                assert torch.allclose(
                    rule.correction(row, torch.full((1, 2, 2), noise[row])) * noise[row],
                    torch.full((1, 2, 2), noise[row] - noise[row - 1]),
                    atol=1e-5,
                )
        assert skipped[0] == 11 and skipped[-1] <= 47
        assert len(skipped) == pytest.approx(37 * share, abs=1)


@pytest.mark.parametrize("every", [2, 3, 4])
def test_sadas_late_phase_goes_through_the_images_of_its_interval(every):
    """Where images follow a cubic, a run that skips in the late phase alone is the full run."""
    noise = [*np.linspace(1, 0.02, 50), 0.0]
    shape = torch.randn(4, 2, 3, dtype=torch.float64, generator=generator())

    def image(row):
        return sum(part * (row / 50) ** power for power, part in enumerate(shape))

    ends, skipped = [], []
    for most in (0, 4):
        rule, sample = Sada([1.0] * 50, noise[:-1], [1.0] * 50, most, every), image(0) + shape[0]
        rule._bends_before = rule._bends
        rule._bends = lambda row, sample, rule=rule: max(
            rule._bends_before(row, sample), 1.0
        )  # none in the early phase
        for row in range(50):
            true = (sample - image(row)) / noise[row]
            if rule.computes(row, sample):
                held = output = true
            else:
                skipped.append(row)
                output = held + rule.correction(row, sample)
                assert torch.allclose(output, true, atol=1e-6), row
            sample = sample + (noise[row + 1] - noise[row]) * output
        ends.append(sample)
    assert torch.allclose(*ends, atol=1e-6) and skipped[0] > 24 and skipped[-1] <= 47
    assert len(skipped) == pytest.approx((47 - 24) * (1 - 1 / every), abs=1)


@pytest.mark.parametrize("make", in_gate([ddim_pipeline, dit_pipeline], dit_pipeline))
@pytest.mark.parametrize("name", METHODS)
def test_rows_say_how_the_work_differs_between_images(name, make):
    pipe, work = make(), []
    method, subject = METHODS[name], Subject(pipe, STEPS)
    assert method.fits(subject) is None
    setting = method.settings(subject)[-1]
    result = evaluate_unmasked(
        pipe, STEPS, lambda: method.deciding(subject, setting, work), seeds=3, batch_size=2, speed=False
    )
    assert len(work) == 3 and all(0 < share <= 1 for share in work)
    assert result.macs_fraction == pytest.approx(np.mean(work), abs=1e-3), "skipped steps run nothing"
    spread = spread_of(work)
    assert spread["min"] <= spread["mean"] <= spread["max"] and spread["mean"] == pytest.approx(np.mean(work), abs=1e-3)
    assert torch.isfinite(result.masked).all()
