"""A hub on this machine: an HTTP server that speaks as much of the API as huggingface_hub needs to share files.

Repositories are made, written in commits and read, private ones with a token. All uploads go the regular way, none by
large file storage. `hub` is a fixture that lets huggingface_hub ask this server, with an empty cache.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import huggingface_hub
import pytest

TOKEN = "hf_of_me"


@dataclass
class Repository:
    """Files by name, and the messages of its commits."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)

    @property
    def sha(self) -> str:
        """Of the newest commit."""
        return hashlib.sha1(repr((self.commits, sorted(self.files.items()))).encode()).hexdigest()


class Hub(ThreadingHTTPServer):
    """The server; `repositories` by name, and `asked`, the paths of all requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *words) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"POST {self.path}")
        parts = self.path.strip("/").split("/")
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "", "Invalid username or password.")
        elif parts == ["api", "repos", "create"]:
            self._create(json.loads(sent))
        elif parts == ["api", "validate-yaml"]:
            self._answer({"errors": [], "warnings": []})
        elif parts[4] == "preupload":
            files = [one["path"] for one in json.loads(sent)["files"]]
            modes = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            self._answer({"files": [{"path": path, **modes} for path in files]})
        elif parts[4] == "commit":
            self._commit("/".join(parts[2:4]), [json.loads(line) for line in sent.splitlines()])
        else:
            self._refuse(404, "", "no such thing")

    def _create(self, asked: dict) -> None:
        repo_id = f"{asked['organization']}/{asked['name']}"
        if repo_id in self.server.repositories:
            self._answer({"error": "You already created this repo", "url": f"{self.server.url}/{repo_id}"}, 409)
            return
        self.server.repositories[repo_id] = Repository(
            private=asked.get("visibility") == "private" or asked.get("private")
        )
        self._answer({"url": f"{self.server.url}/{repo_id}"})

    def _commit(self, repo_id: str, lines: list[dict]) -> None:
        repository = self.server.repositories[repo_id]
        for line in lines:
            if line["key"] == "header":
                repository.commits.append(line["value"]["summary"])
            else:
                repository.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        url = f"{self.server.url}/{repo_id}/commit/{repository.sha}"
        self._answer({"success": True, "commitUrl": url, "commitOid": repository.sha})

    def do_HEAD(self) -> None:
        self._read()

    def do_GET(self) -> None:
        self._read()

    def _read(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        user, name, verb, revision, *file = [*unquote(self.path).strip("/").split("/"), "", ""]
        path = "/".join(file[:-2])
        repository = self.server.repositories.get(f"{user}/{name}")
        known = repository is not None and (not repository.private or TOKEN in self.headers.get("Authorization", ""))
        if verb != "resolve" or not known:
            self._refuse(401, "RepoNotFound", "Invalid username or password.")
        elif revision not in ("main", repository.sha):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif path not in repository.files:
            self._refuse(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": repository.sha})
        else:
            content = repository.files[path]
            self._send(200, content, ETag=f'"{hashlib.sha1(content).hexdigest()}"', **{"X-Repo-Commit": repository.sha})

    def _answer(self, content: dict, code: int = 200, **headers: str) -> None:
        self._send(code, json.dumps(content).encode(), **headers, **{"Content-Type": "application/json"})

    def _refuse(self, code: int, kind: str, words: str, **headers: str) -> None:
        headers |= {"X-Error-Message": words} | ({"X-Error-Code": kind} if kind else {})
        self._answer({"error": words}, code, **headers)

    def _send(self, code: int, content: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers, until the end of the block."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub of one's own, whose address and cache huggingface_hub takes for the usual ones; its token is there."""
    constants = huggingface_hub.constants
    with serving() as server:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + template)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.delenv("STEPMASK_REGISTRY", raising=False)
        yield server
