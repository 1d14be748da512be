"""What a budget buys, in one table."""

from stepmask_lab.pages.at_a_glance import at_a_glance


def row(model, method, macs, psnr, speedup=None, steps=20, seed=None):
    speed = None if speedup is None else {"denoiser_speedup": speedup, "share_of_bound": speedup * macs}
    return {
        "model": model, "steps": steps, "method": method, "setting": f"{macs:.1f}", "seed": seed, "macs": macs,
        "psnr_mean": psnr, "psnr_min": psnr, "psnr_sem": 0.1, "speed": speed, "ssim_mean": None,
    }  # fmt: skip


def test_each_method_shows_the_dearest_row_within_the_budget():
    rows = [
        row("b", "full run", 0.3, 105.0),
        row("b", "FORA", 0.506, 40.0),
        row("b", "FORA", 0.358, 30.0),
        row("a", "FORA", 0.53, 41.0),
        row("a", "FORA", 0.253, 26.0, 3.512),
        row("a", "end-to-end", 0.49, 44.0, 1.9, seed=0),
        row("a", "end-to-end", 0.48, 46.0, 2.1, seed=1),
        row("a", "end-to-end", 0.29, 33.0, seed=0),
        row("b", "DeepCache", 0.6, 50.0),
    ]
    half, third = at_a_glance(rows).split("\n\n")
    assert half.splitlines() == [
        "| 20 steps, 50% of the MACs | a | b |",
        "| --- | --- | --- |",
        "| end-to-end | 45.0 at 0.48, 2.00x | – |",
        "| FORA | 26.0 at 0.25, 3.51x | 40.0 at 0.51 |",
    ]
    assert third.splitlines() == [
        "| 20 steps, 30% of the MACs | a |", "| --- | --- |", "| end-to-end | 33.0 at 0.29 |",
        "| FORA | 26.0 at 0.25, 3.51x |",
    ]  # fmt: skip


def test_numbers_of_steps_have_tables_of_their_own_fewest_first():
    tables = at_a_glance([row("a", "FORA", 0.5, 40.0, steps=50), row("a", "FORA", 0.5, 39.0)], shares=(0.6,))
    assert [line for line in tables.splitlines() if "steps" in line] == [
        "| 20 steps, 60% of the MACs | a |",
        "| 50 steps, 60% of the MACs | a |",
    ]
