"""A Hub of our own on localhost: it speaks the protocol as huggingface_hub's client uses it, and fails in the ways that tests ask for."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace, TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".ckpt", ".png")
Files = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Blob:
    """A file as git has it: `oid` is its git hash, `sha256` is there for what Git LFS keeps."""

    content: bytes
    oid: str
    sha256: str | None

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid


@dataclass(slots=True)
class Repo:
    """`commits`: the files of each commit by its hash. `branches`: commit hashes by name. `token`: who may read it; None is everybody."""

    card: dict[str, Any]
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    token: str | None = None

    def commit_of(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass(frozen=True, slots=True)
class Request:
    """What the server was asked: `file` is the name inside the repository, for requests of a file."""

    method: str
    path: str
    file: str | None
    range: str | None


@dataclass(slots=True)
class HubServer:
    """Serves from `__enter__` to `__exit__`; `requests` has what was asked, oldest first."""

    repos: dict[str, Repo] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    status: int | None = None
    """Answered to everything, for a Hub that is out of order."""

    _cuts: dict[str, tuple[int, int]] = field(default_factory=dict)
    _wrong: dict[str, bytes] = field(default_factory=dict)
    _http: ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))

    def __enter__(self) -> Self:
        Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def add_repo(
        self,
        repo_id: str,
        files: Files | Path,
        *,
        revision: str = "main",
        licence: str | None = None,
        gated: bool = False,
        token: str | None = None,
    ) -> str:
        """Adds a commit with these files, of a folder or by name, and returns its hash.

        `revision`: the branch that it is put on, or the hash that it is to have.
        """
        if isinstance(files, Path):
            files = {path.relative_to(files).as_posix(): path.read_bytes() for path in sorted(files.rglob("*")) if path.is_file()}
        blobs = {name: _blob(name, content) for name, content in files.items()}
        named = bool(re.fullmatch("[0-9a-f]{40}", revision))
        commit = revision if named else hashlib.sha1(repr([(name, blob.oid) for name, blob in blobs.items()]).encode()).hexdigest()
        repo = self.repos.setdefault(repo_id, Repo({"license": licence} if licence else {}, gated=gated, token=token))
        repo.commits[commit] = blobs
        if not named:
            repo.branches[revision] = commit
        return commit

    def rename(self, old: str, new: str) -> None:
        self.repos[new] = self.repos.pop(old)
        self.renamed[old] = new

    def cut(self, file: str, after: int, *, times: int = 1) -> None:
        """Ends the connection when the first `after` bytes of the file are sent, `times` times over."""
        self._cuts[file] = (after, times)

    def send_wrong(self, file: str, content: bytes) -> None:
        """Sends these bytes for the file, and states the right hash."""
        self._wrong[file] = content

    def mend(self) -> None:
        """Ends all faults."""
        self.status = None
        self._cuts.clear()
        self._wrong.clear()

    def sent(self, file: str) -> list[Request]:
        """The requests that asked for the content of the file."""
        return [request for request in self.requests if request.method == "GET" and request.file == file]

    def content(self, file: str, blob: Blob) -> bytes:
        return self._wrong.get(file, blob.content)

    def next_cut(self, file: str) -> int | None:
        after, times = self._cuts.get(file, (0, 0))
        if times == 0:
            return None
        self._cuts[file] = (after, times - 1)
        return after


@contextmanager
def serving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub without repositories and an empty cache in `tmp_path`/hub; the client's settings, which it reads once, lead to them."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    settings = {
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "AGENT_HARNESSES_PATH": str(tmp_path / "harnesses.json"),
        "HF_HUB_OFFLINE": False,
        "DOWNLOAD_CHUNK_SIZE": 1000,
    }
    with HubServer() as server:
        settings |= {"ENDPOINT": server.url, "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}"}
        for name, value in settings.items():
            monkeypatch.setattr(constants, name, value)
        # It waits a second before each new attempt.
        monkeypatch.setattr("huggingface_hub.file_download.time", SimpleNamespace(sleep=lambda _: None))
        huggingface_hub.close_session()
        yield server
        huggingface_hub.close_session()


def _blob(name: str, content: bytes) -> Blob:
    oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return Blob(content, oid, hashlib.sha256(content).hexdigest() if name.endswith(LFS_SUFFIXES) else None)


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def log_message(self, format: str, *args: object) -> None:
            """Silence."""

        def _answer(self) -> None:
            url = urlsplit(self.path)
            resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", url.path)
            about = re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+))?", url.path)
            file = unquote(resolve[3]) if resolve else None
            hub.requests.append(Request(self.command, self.path, file, self.headers["Range"]))
            if hub.status:
                self._refuse(hub.status)
            elif resolve and file and (found := self._find(resolve[1], unquote(resolve[2]))):
                self._resolve(*found, file)
            elif about and (found := self._find(about[1], unquote(about[3] or "main"))):
                with_blobs = "blobs" in parse_qs(url.query)
                self._json(_tree(*found) if about[2] == "tree" else _information(about[1], *found, with_blobs=with_blobs))
            elif not (resolve or about):
                self._refuse(404)

        def _find(self, repo_id: str, revision: str) -> tuple[Repo, str] | None:
            """The repository and the commit; None when the answer was given already."""
            if repo_id in hub.renamed:
                self._send(307, {"Location": self.path.replace(repo_id, hub.renamed[repo_id], 1)})
                return None
            repo = hub.repos.get(repo_id)
            if repo is None or (repo.token and not repo.gated and not self._may_read(repo)):
                self._refuse(401, "RepoNotFound")
                return None
            commit = repo.commit_of(revision)
            if commit is None:
                self._refuse(404, "RevisionNotFound")
                return None
            return repo, commit

        def _may_read(self, repo: Repo) -> bool:
            return repo.token is not None and self.headers["Authorization"] == f"Bearer {repo.token}"

        def _resolve(self, repo: Repo, commit: str, file: str) -> None:
            blob = repo.commits[commit].get(file)
            if repo.gated and not self._may_read(repo):
                self._refuse(403, "GatedRepo")
            elif blob is None:
                self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
            else:
                headers = {"ETag": f'"{blob.etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
                if blob.sha256:
                    headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
                self._content(file, hub.content(file, blob), headers)

        def _content(self, file: str, content: bytes, headers: dict[str, str]) -> None:
            begin, end, status = 0, len(content), 200
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
            if asked:
                begin, end, status = int(asked[1]), min(end, int(asked[2] or end) + 1), 206
                if begin >= end:
                    self._refuse(416)
                    return
                headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
            cut = hub.next_cut(file) if self.command == "GET" else None
            sent = content[begin : end if cut is None else min(end, max(begin, cut))]
            self._send(status, headers, sent, stated=end - begin)
            if len(sent) < end - begin:
                self.close_connection = True

        def _json(self, value: object) -> None:
            self._send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

        def _refuse(self, status: int, code: str | None = None, headers: dict[str, str] | None = None) -> None:
            self._send(status, (headers or {}) | ({"X-Error-Code": code} if code else {}))

        def _send(self, status: int, headers: dict[str, str], body: bytes = b"", stated: int | None = None) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if stated is None else stated))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler


def _information(repo_id: str, repo: Repo, commit: str, *, with_blobs: bool) -> dict[str, Any]:
    siblings = [
        {"rfilename": name} | ({"size": len(blob.content), "blobId": blob.oid} | _lfs(blob) if with_blobs else {})
        for name, blob in repo.commits[commit].items()
    ]
    return {
        "_id": commit[:24],
        "id": repo_id,
        "modelId": repo_id,
        "sha": commit,
        "private": repo.token is not None and not repo.gated,
        "gated": "auto" if repo.gated else False,
        "cardData": repo.card,
        "tags": [],
        "siblings": siblings,
    }


def _tree(repo: Repo, commit: str) -> list[dict[str, Any]]:
    files = repo.commits[commit].items()
    return [{"type": "file", "path": name, "size": len(blob.content), "oid": blob.oid} | _lfs(blob, "oid") for name, blob in files]


def _lfs(blob: Blob, hash_key: str = "sha256") -> dict[str, Any]:
    return {"lfs": {hash_key: blob.sha256, "size": len(blob.content), "pointerSize": 134}} if blob.sha256 else {}
