"""A local server that speaks the Hub's protocol for downloads and uploads, and misbehaves on demand.

    with HubServer() as server:
        commit = server.add("owner/net", {"config.json": b"{}"})
        server.use(monkeypatch)                     # the Hub's client now talks to this server
        server.misbehave(status(500), file="config.json", times=1)   # see hub_faults

Another process uses the server with the environment variables HF_ENDPOINT=server.endpoint and HF_HUB_DISABLE_XET=1.

The server covers what `huggingface_hub` needs for files, trees, repository information, `create_repo` and commits,
with small files inside the commit and `.h5` files through Git LFS ("basic" transfer). It has no Xet storage, no
multipart uploads, and no permissions: every token is accepted.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/(.+)/([^/]+)")
INFORMATION = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/revision/([^/]+))?")
TREE = re.compile(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)")
PREUPLOAD = re.compile(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)")
COMMIT = re.compile(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)")
LFS_BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
LFS_UPLOAD = re.compile(r"/lfs/([0-9a-f]{64})")


@dataclass
class Response:
    """An answer of the server, which a fault may change before it is sent."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def replaced(self, **changes):
        return replace(self, **changes)


@dataclass
class Misbehaviour:
    """A fault in the answers to some requests. `act(handler, response)` returns what to send; `None` for nothing."""

    act: Callable
    file: str | None
    times: int | None
    methods: tuple[str, ...]


class HubServer:
    """Repositories in memory, served at `endpoint` while the context is open.

    Attributes:
        commits: `{repository: {commit: {file name: content}}}`.
        branches: `{repository: {branch: commit}}`.
        requests: `(method, path)` of every request.
    """

    def __init__(self):
        self.commits, self.branches, self.requests = {}, {}, []
        self.uploads, self.faults, self.stopped = {}, [], threading.Event()

    def __enter__(self):
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def use(self, monkeypatch):
        """Make the Hub's client use this server, as HF_ENDPOINT does when set before its import."""
        from huggingface_hub import constants

        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, self.endpoint)
        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)  # not in old versions

    def add(self, repository: str, files: Mapping[str, bytes] | Path, branch: str = "main") -> str:
        """Commit the complete content of a repository, as a mapping or a folder. Return the commit."""
        if isinstance(files, Path):
            files = {path.name: path.read_bytes() for path in files.iterdir() if path.is_file()}
        commits = self.commits.setdefault(repository, {})
        content = repr((repository, branch, len(commits), sorted(files.items())))
        commit = hashlib.sha1(content.encode()).hexdigest()
        commits[commit] = dict(files)
        self.branches.setdefault(repository, {})[branch] = commit
        return commit

    def files(self, repository: str, revision: str = "main") -> dict[str, bytes] | None:
        """Return the files of a branch or commit, or `None`."""
        return self.commits[repository].get(self.commit_of(repository, revision))

    def commit_of(self, repository: str, revision: str) -> str:
        return self.branches[repository].get(revision, revision)

    def misbehave(self, act: Callable, file: str | None = None, times: int | None = None, methods: Iterable[str] = ()):
        """Add a fault.

        Args:
            act: Called as `act(handler, response)`; see `hub_faults`.
            file: Last part of the path of the requests, such as `config.json`. `None` for all.
            times: Number of requests. `None` for no limit.
            methods: Methods of the requests. Empty for all.
        """
        self.faults.append(Misbehaviour(act, file, times, tuple(methods)))

    def heal(self):
        self.faults.clear()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: HubServer

    def do_HEAD(self):
        self._answer()

    do_GET = do_POST = do_PUT = do_HEAD  # noqa: N815

    def log_message(self, *args):
        pass

    def _answer(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        self.body = self._read_body()
        response = self._route(path)
        for fault in list(self.hub.faults):
            if fault.file not in (None, path.rsplit("/", 1)[-1]) or self.command not in (fault.methods or self.command):
                continue
            if fault.times is not None:
                if fault.times == 0:
                    continue
                fault.times -= 1
            response = fault.act(self, response)
            if response is None:
                return
        with contextlib.suppress(ConnectionError):
            self.send(response)

    def send(self, response: Response):
        self.send_response(response.status)
        for name, value in {"Content-Length": str(len(response.body)), **response.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def _read_body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _route(self, path):
        if self.command in ("GET", "HEAD"):
            routes = {RESOLVE: self._file, TREE: self._tree, INFORMATION: self._information}
        else:
            routes = {PREUPLOAD: self._preupload, COMMIT: self._commit, LFS_BATCH: self._lfs_batch}
        for pattern, answer in routes.items():
            if found := pattern.fullmatch(path):
                return answer(*found.groups()) if found[1] in self.hub.commits else _error(404, "RepoNotFound")
        if found := LFS_UPLOAD.fullmatch(path):
            return self._lfs_upload(found[1])
        if path == "/api/repos/create":
            return self._create(json.loads(self.body))
        fixed = {"/api/validate-yaml": {}, "/api/whoami-v2": {"name": "me", "type": "user"}}
        return _json(fixed[path]) if path in fixed else Response(404)

    # --- Reading ---

    def _file(self, repository, revision, name):
        commit = self.hub.commit_of(repository, revision)
        files = self.hub.files(repository, revision)
        if files is None:
            return _error(404, "RevisionNotFound")
        if name not in files:
            return _error(404, "EntryNotFound", {"X-Repo-Commit": commit})
        content = files[name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{_etag(name, content)}"', "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if wanted is None:
            return Response(200, content, headers)
        first = int(wanted[1])
        headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        return Response(206, content[first:], headers)

    def _tree(self, repository, revision):
        files = self.hub.files(repository, revision)
        if files is None:
            return _error(404, "RevisionNotFound")
        return _json([_entry(name, content) for name, content in sorted(files.items())])

    def _information(self, repository, revision):
        files = self.hub.files(repository, revision or "main")
        if files is None:
            return _error(404, "RevisionNotFound")
        siblings = [{"rfilename": name} for name in sorted(files)]
        commit = self.hub.commit_of(repository, revision or "main")
        return _json({"id": repository, "modelId": repository, "sha": commit, "siblings": siblings, "tags": []})

    # --- Writing ---

    def _create(self, wanted):
        repository = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        if repository in self.hub.commits:
            return _json({"url": f"{self.hub.endpoint}/{repository}"}, 409)
        self.hub.add(repository, {})
        return _json({"url": f"{self.hub.endpoint}/{repository}", "name": repository})

    def _preupload(self, repository, revision):
        names = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {name: "lfs" if name.endswith(".h5") else "regular" for name in names}
        return _json({"files": [{"path": n, "uploadMode": m, "shouldIgnore": False} for n, m in modes.items()]})

    def _lfs_batch(self, repository):
        objects = []
        for each in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.endpoint}/lfs/{each['oid']}", "header": {}}}
            known = each["oid"] in self.hub.uploads
            objects.append({"oid": each["oid"], "size": each["size"], **({} if known else {"actions": upload})})
        return _json({"transfer": "basic", "objects": objects})

    def _lfs_upload(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            return Response(400)
        self.hub.uploads[oid] = self.body
        return Response()

    def _commit(self, repository, revision):
        files = dict(self.hub.files(repository, revision) or {})
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.uploads:
                    return Response(400)
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        commit = self.hub.add(repository, files, branch=revision)
        url = f"{self.hub.endpoint}/{repository}/commit/{commit}"
        return _json({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})


def _etag(name, content):
    """Return the hash that names a file on the Hub: SHA-256 for LFS files, Git's blob id for others."""
    if name.endswith(".h5"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(name, content):
    entry = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
    if name.endswith(".h5"):
        entry["lfs"] = {"oid": _etag(name, content), "size": len(content), "pointerSize": 130}
    return entry


def _json(content, status=200):
    return Response(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


def _error(status, code, headers=()):
    return Response(status, b"", {"X-Error-Code": code, "X-Error-Message": code, **dict(headers)})
