"""The example of a server, asked by several clients at once over the loopback."""

import io
import resource
import runpy
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

import stepmask
from tiny import FEWEST, dit_pipeline

STEPS = 6
QUALITIES = ("draft", "good", "best", "full")
EXAMPLE = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "serve.py"))


@pytest.fixture(scope="module")
def family():
    options = {"rounds": 1, **FEWEST, "gains": 2}
    return stepmask.learn_family(dit_pipeline(), STEPS, (0.7, 0.5, 0.3), progress=False, **options)


@pytest.fixture(scope="module")
def url(family):
    app = EXAMPLE["make_app"](EXAMPLE["Sampler"](dit_pipeline(), family, max_cache_bytes=2**30))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def alone(family):
    """Images of lone runs, each of a pipeline of its own."""
    known = {}

    def image(label, seed, quality):
        if (label, seed, quality) not in known:
            pipe = dit_pipeline()
            budget = EXAMPLE["BUDGETS"].get(quality)
            if budget is not None:
                stepmask.apply(pipe, family.at(budget))
            generator = torch.Generator().manual_seed(seed)
            made = pipe([label], num_inference_steps=STEPS, generator=generator).images[0]
            known[label, seed, quality] = np.asarray(made)
        return known[label, seed, quality]

    return image


def ask(url, **request):
    return httpx.post(f"{url}/images", json=request, timeout=120)


def pixels(answer):
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def load(url, alone, number):
    """So many requests from eight clients, at mixed qualities; each is compared with its lone run."""
    asked = [{"class_label": i % 3, "seed": i % 5, "quality": QUALITIES[i % 4]} for i in range(number)]
    with ThreadPoolExecutor(8) as clients, httpx.Client(timeout=120) as client:
        answers = list(clients.map(lambda request: client.post(f"{url}/images", json=request), asked))
    for request, answer in zip(asked, answers, strict=True):
        expected = alone(request["class_label"], request["seed"], request["quality"])
        assert np.array_equal(pixels(answer), expected), request


def test_each_answer_equals_a_lone_run(url, alone):
    load(url, alone, 16)
    images = [alone(0, 0, quality) for quality in ("draft", "best", "full")]
    assert not np.array_equal(images[0], images[2]) and not np.array_equal(images[1], images[2])


@pytest.mark.slow
def test_two_hundred_requests(url, alone):
    load(url, alone, 100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load(url, alone, 200)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024, "KiB"


def test_what_it_says_of_itself(url, family):
    shares = httpx.get(f"{url}/qualities").json()
    assert set(shares) == set(QUALITIES) and shares["full"] == 1.0 and shares["draft"] <= 0.3
    assert ask(url, class_label=1, quality="draft").headers["X-Share-Of-MACs"] == f"{shares['draft']:.3f}"


def test_bad_requests_are_told_why_and_do_no_harm(url, alone):
    assert ask(url, class_label=1, quality="finest").status_code == 422
    assert ask(url, class_label=-1).status_code == 422
    answer = ask(url, prompt="a boat", class_label=1)
    assert answer.status_code == 422 and "prompt" in answer.text
    assert np.array_equal(pixels(ask(url, class_label=1, seed=1, quality="good")), alone(1, 1, "good"))


def test_a_family_whose_caches_are_too_large(family):
    sampler = EXAMPLE["Sampler"](dit_pipeline(), family, max_cache_bytes=1)
    assert set(sampler.shares()) == {"full"}


def test_a_full_queue(family, monkeypatch):
    """One request more than may wait is asked to come again, and the others are answered."""
    sampler = EXAMPLE["Sampler"](dit_pipeline(), family, max_cache_bytes=2**30)
    begun, go_on = threading.Event(), threading.Event()
    sample = sampler.sample

    def slowly(request):
        begun.set()
        assert go_on.wait(60)
        return sample(request)

    sampler.sample = slowly
    make_app = EXAMPLE["make_app"]
    monkeypatch.setitem(make_app.__globals__, "MOST_WAITING", 1)
    with TestClient(make_app(sampler)) as client, ThreadPoolExecutor(1) as other:
        first = other.submit(client.post, "/images", json={"class_label": 1})
        assert begun.wait(60)
        refused = client.post("/images", json={"class_label": 1})
        assert refused.status_code == 503 and refused.headers["Retry-After"]
        go_on.set()
        assert first.result().status_code == 200
