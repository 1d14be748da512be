"""Compare rule-based schedules with the full run: fidelity and measured speed, one full run shared by all."""

import stepmask
from stepmask_lab import reference


def main(steps: int = 50, num_images: int = 16) -> None:
    pipe = reference.load("ddpm-cifar10")
    masks = {
        "DeepCache, every 3rd step": stepmask.schedules.deepcache(pipe, steps, interval=3),
        "FORA, every 2nd step": stepmask.schedules.fora(pipe, steps, interval=2),
    }
    full = None
    for name, mask in masks.items():
        result = stepmask.evaluate(pipe, mask, seeds=num_images, batch_size=num_images, reference=full)
        full = result.full
        print(name)
        print(result)


if __name__ == "__main__":
    main()
