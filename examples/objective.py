"""Learn by what people see: the decoded image in place of the latents, or the features of a network."""

import stepmask
from stepmask_lab import reference


def main(steps: int = 20, target_macs: float = 0.4, **options) -> None:
    pipe = reference.load("ldm-cifar10")
    guided = {"guidance_scale": 2.5}

    def decoded(latents):
        return pipe.vae.decoder(latents)  # they are as its network reads them

    # any differentiable function of the final latents (N, ...) does: classifier features, LPIPS's, a depth model's
    mask = stepmask.learn(pipe, steps, target_macs, objective=decoded, call_kwargs=guided, **options)
    mask.save("decoded.json")
    print(stepmask.evaluate(pipe, mask, seeds=4))


if __name__ == "__main__":
    main()
