"""Serve one pipeline over HTTP; each request names a quality, which is a budget, and gets the family's mask for it.

    pip install "stepmask[serve]"
    python examples/serve.py family.json
    curl localhost:8000/images --json '{"class_label": 3, "seed": 7, "quality": "good"}' -o image.png

One thread owns the pipeline and takes requests in turn. So no two of them ever meet in one run, and a request gets the
image that it would get alone. Requests wait in a queue of limited length; whoever comes later is asked to come again.
"""

import io
import sys
from asyncio import wrap_future
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Literal

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, Field

import stepmask
from stepmask.family import Member
from stepmask_lab import reference

Quality = Literal["draft", "good", "best", "full"]
BUDGETS = {"draft": 0.3, "good": 0.5, "best": 0.7}  # shares of the full run's MACs; "full" runs without a mask
MOST_WAITING = 64


class Request(BaseModel):
    """What a client asks for."""

    prompt: str | None = Field(None, max_length=2000)
    class_label: int | None = Field(None, ge=0)
    seed: int = Field(0, ge=0, lt=2**63)
    quality: Quality = "good"


class Sampler:
    """A pipeline in the hands of one thread. Only that thread may call `sample`."""

    def __init__(self, pipe, family: stepmask.MaskFamily, max_cache_bytes: int, **call_kwargs) -> None:
        self.pipe, self.call_kwargs = pipe, call_kwargs
        pipe.set_progress_bar_config(disable=True)
        costs, graph = stepmask.measure_cost(pipe), stepmask.describe(pipe)
        self.steps = next(iter(family)).mask.provenance["num_inference_steps"]
        self.members: dict[Quality, Member | None] = {"full": None}
        for quality, budget in BUDGETS.items():
            plans = [(member, stepmask.make_plan(member.mask, graph)) for member in family if member.macs <= budget]
            fitting = [member for member, plan in plans if costs.peak_cache_bytes(plan) <= max_cache_bytes]
            if fitting:
                self.members[quality] = fitting[0]  # of a family the first is the best
        self._applied: Quality = "full"

    def shares(self) -> dict[str, float]:
        """Qualities that there are, and what each takes of the full run's MACs."""
        return {quality: 1.0 if member is None else member.macs for quality, member in self.members.items()}

    def sample(self, request: Request) -> bytes:
        """The image, as a PNG file."""
        self._switch(request.quality)
        asked = {} if request.prompt is None else {"prompt": request.prompt}
        asked |= {} if request.class_label is None else {"class_labels": [request.class_label]}
        generator = torch.Generator().manual_seed(request.seed)
        found = self.pipe(num_inference_steps=self.steps, generator=generator, **asked, **self.call_kwargs)
        file = io.BytesIO()
        found.images[0].save(file, "png")
        return file.getvalue()

    def _switch(self, quality: Quality) -> None:
        """Apply the mask of a quality, unless it is the one that is applied already."""
        if quality == self._applied:
            return
        stepmask.remove(self.pipe)
        self._applied = "full"
        if quality != "full":
            stepmask.apply(self.pipe, self.members[quality].mask)
            self._applied = quality


def make_app(sampler: Sampler) -> FastAPI:
    """The server's routes: ``POST /images`` makes one, ``GET /qualities`` says what there is."""
    thread = ThreadPoolExecutor(max_workers=1)
    waiting = 0

    @asynccontextmanager
    async def lifespan(app: FastAPI):
        yield
        thread.shutdown(cancel_futures=True)

    app = FastAPI(title="stepmask", lifespan=lifespan)

    @app.get("/qualities")
    async def qualities() -> dict[str, float]:
        return sampler.shares()

    @app.post("/images", response_class=Response)
    async def images(request: Request) -> Response:
        nonlocal waiting
        shares = sampler.shares()
        if request.quality not in shares:
            raise HTTPException(422, f"no quality {request.quality!r} here; there is {', '.join(shares)}")
        if waiting >= MOST_WAITING:
            raise HTTPException(503, f"{waiting} requests are waiting: come again", headers={"Retry-After": "5"})
        waiting += 1
        try:
            png = await wrap_future(thread.submit(sampler.sample, request))
        except (ValueError, TypeError) as error:  # what the pipeline says of its arguments
            raise HTTPException(422, str(error)) from error
        finally:
            waiting -= 1
        return Response(png, media_type="image/png", headers={"X-Share-Of-MACs": f"{shares[request.quality]:.3f}"})

    return app


def main(family: str = "family.json", host: str = "127.0.0.1", port: int = 8000) -> None:
    pipe = reference.load("dit-cifar10")  # or any diffusers pipeline, on its device
    sampler = Sampler(pipe, stepmask.MaskFamily.load(family), max_cache_bytes=2**30)
    uvicorn.run(make_app(sampler), host=host, port=port)


if __name__ == "__main__":
    main(*sys.argv[1:2])
