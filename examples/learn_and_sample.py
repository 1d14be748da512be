"""Learn a mask that keeps half of the MACs, save it, load it, and sample with it."""

import stepmask
from stepmask_lab import reference


def main(steps: int = 50, **options) -> None:
    pipe = reference.load("ddpm-cifar10")  # or any diffusers pipeline of a supported family
    mask = stepmask.learn(pipe, num_inference_steps=steps, target_macs=0.5, **options)
    mask.save("mask.json")

    mask = stepmask.StepMask.load("mask.json")
    with stepmask.apply(pipe, mask) as run:
        images = pipe(num_inference_steps=steps, batch_size=4).images
        print(run.summary())
    for i, image in enumerate(images):
        image.save(f"image_{i}.png")


if __name__ == "__main__":
    main()
