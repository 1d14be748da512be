"""Learn masks for several budgets in one pass, keep them in one file, and pick one when sampling."""

import stepmask
from stepmask_lab import reference


def main(steps: int = 50, **options) -> None:
    pipe = reference.load("ddpm-cifar10")
    family = stepmask.learn_family(pipe, num_inference_steps=steps, targets=(0.7, 0.5), **options)
    family.save("family.json")

    family = stepmask.MaskFamily.load("family.json")
    for member in family:
        print(f"{member.macs:.1%} of the MACs: PSNR {member.psnr:.1f} dB against the full run")
    mask = family.at(0.5)  # the best at half of the MACs; family.at(min_psnr=35) is the cheapest with 35 dB
    print(mask)
    with stepmask.apply(pipe, mask):
        pipe(num_inference_steps=steps, batch_size=1).images[0].save("image.png")


if __name__ == "__main__":
    main()
