"""Without a search: whole steps that compute, and forecasts between them that learn how far to go. Minutes."""

import stepmask
from stepmask_lab import reference


def main(steps: int = 20, key_steps: int = 8, iterations: int = 20, seeds: int = 16) -> None:
    pipe = reference.load("ldm-cifar10")
    guided = {"guidance_scale": 2.5}

    schedule = stepmask.schedules.key_steps(pipe, steps, key_steps)  # any other schedule or mask does as well
    mask = stepmask.fit_gains(pipe, schedule, iterations, call_kwargs=guided)
    mask.save("gains.json")
    for one in (schedule, mask):
        result = stepmask.evaluate(pipe, one, seeds=seeds, num_inference_steps=steps, call_kwargs=guided, speed=False)
        print(f"{result.psnr.mean:.1f} dB at {result.macs_fraction:.1%} of the MACs")


if __name__ == "__main__":
    main()
