"""A stand-in for the Hub over real HTTP on loopback: repositories, branches, pull requests, large files, and faults."""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

USER, TOKEN = "tester", "hf_" + "OnlyForTestsOnLoopback" + "x" * 12
# What goes through the large-file path.
LARGE = (".safetensors", ".parquet", ".bin")


@dataclass
class Repository:
    """Branches (pull requests are ``refs/pr/N``) → list of commits, each a commit id, files and a message."""

    branches: dict[str, list[dict]]
    private: bool = False

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commit(revision)["files"]

    def commit(self, revision: str) -> dict:
        if revision in self.branches:
            return self.branches[revision][-1]
        return next(c for commits in self.branches.values() for c in commits if c["id"] == revision)


class HttpError(Exception):
    """An answer other than success; ``code`` is what the Hub calls it."""

    def __init__(self, status: int, code: str = "", message: str = "", url: str = ""):
        super().__init__(status, code, message)
        self.status, self.code, self.message, self.url = status, code, message, url


@dataclass
class Fault:
    """What happens instead to the next requests that match.

    A status; ``"cut"``: the connection ends; ``"silent"``: no answer; ``"drip"``: a byte of a header now and then, and
    ``"drip body"`` of the body; ``"nonsense"``: an answer that is none; ``"deaf"``: what is sent is not taken.
    """

    method: str
    path: str
    answers: list
    headers: dict = field(default_factory=dict)


class HubServer:
    """``with HubServer() as hub:`` serves at ``hub.url`` until the block ends."""

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.parts: dict[tuple[str, int], bytes] = {}
        self.verified: set[str] = set()
        self.part_size, self.verifies = 0, False
        self._lock = threading.RLock()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16  # one packet an answer: two would wait for each other
            disable_nagle_algorithm = True

            def log_message(self, *_):
                pass

            def answer(self):
                hub._handle(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def reset(self) -> None:
        """Forgets everything."""
        for kept in (self.repositories, self.blobs, self.requests, self.faults, self.parts, self.verified):
            kept.clear()
        self.part_size, self.verifies = 0, False

    def model(self, name: str) -> Repository:
        return self.repositories["models", name]

    def fail(self, method: str, path: str, *answers, **headers: str) -> None:
        """Lets the next requests whose path matches the pattern fail, one answer each."""
        self.faults.append(Fault(method, path, list(answers), headers))

    def sent(self, method: str, pattern: str) -> int:
        """Number of requests so far."""
        return sum(m == method and bool(re.search(pattern, path)) for m, path in self.requests)

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        url = urlsplit(request.path)
        path, query = unquote(url.path), parse_qs(url.query)
        with self._lock:
            self.requests.append((request.command, path))
            fault = next((f for f in self.faults if f.answers and f.method == request.command
                          and re.search(f.path, path)), None)  # fmt: skip
            answer = fault.answers.pop(0) if fault else None
        if answer == "cut":  # in the middle of what is being sent
            request.rfile.read(int(request.headers.get("Content-Length") or 0) // 2)
            request.close_connection = True
            return request.connection.close()
        if answer in ("silent", "drip", "drip body", "deaf"):
            return self._dawdle(request, answer)
        body = self._body(request)
        if answer == "nonsense":
            return self._send(request, 200, b"<html>Please log in to this network</html>", {})
        try:
            if answer:
                raise HttpError(answer, "Injected", "injected by the test")
            writes = request.command in ("POST", "PUT", "DELETE") and not path.startswith(
                ("/blobs/", "/parts/", "/complete/")
            )
            if writes and request.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise HttpError(401, "Unauthorized", "Invalid credentials")
            with self._lock:
                content, headers = self._route(request.command, path, query, body)
        except (KeyError, StopIteration):
            return self._send(request, 404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})
        except HttpError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.message, **(fault.headers if fault else {})}
            return self._send(request, error.status, {"error": error.message, "url": error.url}, headers)
        self._send(request, 200, content, headers)

    def _dawdle(self, request, how: str) -> None:
        """Keeps a connection open until the client gives up, or for four seconds."""
        if how != "deaf":
            self._body(request)
        begin = {"drip": b"HTTP/1.1 200 OK\r\nX: ", "drip body": b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"}
        try:
            request.connection.sendall(begin.get(how, b""))
            for _ in range(80):
                threading.Event().wait(0.05)
                if how.startswith("drip"):
                    request.connection.sendall(b"x")
        except OSError:
            pass
        request.close_connection = True

    @staticmethod
    def _body(request) -> bytes:
        if "chunked" not in request.headers.get("Transfer-Encoding", ""):
            return request.rfile.read(int(request.headers.get("Content-Length") or 0))
        parts = []
        while size := int(request.rfile.readline().strip() or b"0", 16):
            parts.append(request.rfile.read(size))
            request.rfile.readline()
        request.rfile.readline()
        return b"".join(parts)

    @staticmethod
    def _send(request, status: int, content, headers: dict) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        request.send_response(status)
        for name, value in {"Content-Length": str(len(raw)), **headers}.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(raw)

    def _route(self, method: str, path: str, query: dict, body: bytes) -> tuple[object, dict]:
        if path == "/api/whoami-v2":
            return {"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}}, {}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}, {}
        if path == "/api/repos/create":
            return self._create(json.loads(body)), {}
        if match := re.fullmatch(r"/blobs/(\w+)", path):
            if hashlib.sha256(body).hexdigest() != match[1]:
                raise HttpError(400, "BadOid", "content does not match its hash")
            self.blobs[match[1]] = body
            return b"", {}
        if match := re.fullmatch(r"/parts/(\w+)/(\d+)", path):
            self.parts[match[1], int(match[2])] = body
            return b"", {"ETag": f"part-{match[2]}"}
        if match := re.fullmatch(r"/complete/(\w+)", path):
            found = sorted(part for part in self.parts if part[0] == match[1])
            self.blobs[match[1]] = b"".join(self.parts[part] for part in found)
            return {}, {}
        if match := re.fullmatch(r"/verify/(\w+)", path):
            self.verified.add(match[1])
            return {"found": len(self.blobs[match[1]])}, {}
        if match := re.fullmatch(r"/(datasets/)?([\w.-]+/[\w.-]+)\.git/info/lfs/objects/batch", path):
            return {"transfer": "basic", "objects": [self._large(o) for o in json.loads(body)["objects"]]}, {}
        if match := re.fullmatch(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)(?:/(.*))?", path):
            return self._api(self.repositories[match[1], match[2]], match[2], match[3] or "", query, body)
        if match := re.fullmatch(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", path):
            return self._file(self.repositories["datasets" if match[1] else "models", match[2]], match[3], match[4])
        raise HttpError(404, "NotFound", path)

    def _create(self, wanted: dict) -> dict:
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        key = ("datasets" if wanted.get("type") == "dataset" else "models", name)
        url = f"{self.url}/{'datasets/' if key[0] == 'datasets' else ''}{name}"
        if key in self.repositories:
            raise HttpError(409, "RepoExists", "You already created this repository", url)
        first = {"id": hashlib.sha1(repr(key).encode()).hexdigest(), "files": {}, "message": "initial commit"}
        self.repositories[key] = Repository(
            {"main": [first]}, bool(wanted.get("private")) or wanted.get("visibility") == "private"
        )
        return {"url": url, "name": name}

    def _large(self, wanted: dict) -> dict:
        done = wanted["oid"] in (self.verified if self.verifies else self.blobs)
        address, header = f"{self.url}/blobs/{wanted['oid']}", {}
        if self.part_size:
            parts = -(-wanted["size"] // self.part_size)
            header = {"chunk_size": str(self.part_size)}
            header |= {str(i + 1): f"{self.url}/parts/{wanted['oid']}/{i}?X-Signature=secret" for i in range(parts)}
            address = f"{self.url}/complete/{wanted['oid']}"
        actions = {"upload": {"href": f"{address}?X-Signature=secret", "header": header}}
        if self.verifies:
            actions["verify"] = {"href": f"{self.url}/verify/{wanted['oid']}", "header": {}}
        return {**wanted, **({} if done else {"actions": actions})}

    def _api(self, repository: Repository, name: str, rest: str, query: dict, body: bytes) -> tuple[object, dict]:
        if match := re.fullmatch(r"branch/(.+)", rest):
            if match[1] in repository.branches:
                raise HttpError(409, "RefExists", "Reference already exists")
            start = json.loads(body or b"{}").get("startingPoint", "main")
            repository.branches[match[1]] = [repository.commit(start)]
            return b"", {}
        if match := re.fullmatch(r"preupload/(.+)", rest):
            files = repository.files(match[1])
            return {"files": [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular",
                 "shouldIgnore": False, "oid": self._hash(f["path"], files.get(f["path"]))}
                for f in json.loads(body)["files"]
            ]}, {}  # fmt: skip
        if match := re.fullmatch(r"commit/(.+)", rest):
            return self._commit(repository, name, match[1], query, body), {}
        if rest == "refs":
            refs = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": c[-1]["id"]}
                    for b, c in repository.branches.items()]  # fmt: skip
            return {"branches": refs, "tags": [], "converts": []}, {}
        if match := re.fullmatch(r"tree/([^/]+)(?:/(.*))?", rest):
            found = repository.files(match[1])
            entries = [{"type": "file", "path": p, "size": len(b), "oid": self._hash(p, b)} for p, b in found.items()]
            return entries, {}
        if match := re.fullmatch(r"(?:revision/(.+))?", rest):
            commit = repository.commit(match[1] or "main")
            siblings = [{"rfilename": path} for path in commit["files"]]
            info = {
                "private": repository.private,
                "disabled": False,
                "gated": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "lastModified": "2026-01-01T00:00:00.000Z",
                "createdAt": "2026-01-01T00:00:00.000Z",
            }
            return {"_id": "0", "id": name, "modelId": name, "author": USER, "sha": commit["id"], "siblings": siblings,
                    **info}, {}  # fmt: skip
        raise HttpError(404, "NotFound", rest)

    def _commit(self, repository: Repository, name: str, revision: str, query: dict, body: bytes) -> dict:
        lines = [json.loads(line) for line in body.decode().splitlines() if line.strip()]
        files = dict(repository.files(revision))
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        target, extra = revision, {}
        if query.get("create_pr"):
            target = f"refs/pr/{1 + sum(b.startswith('refs/pr/') for b in repository.branches)}"
            repository.branches[target] = [repository.commit(revision)]
            extra = {"pullRequestUrl": f"{self.url}/{name}/discussions/{target.rsplit('/', 1)[1]}"}
        parent = repository.branches[target][-1]
        identity = hashlib.sha1(parent["id"].encode() + body).hexdigest()
        repository.branches[target].append(
            {"id": identity, "files": files, "message": lines[0]["value"].get("summary", "")}
        )
        return {"success": True, "commitOid": identity, "commitUrl": f"{self.url}/{name}/commit/{identity}", **extra}

    def _file(self, repository: Repository, revision: str, path: str) -> tuple[bytes, dict]:
        commit = repository.commit(revision)
        if path not in commit["files"]:
            raise HttpError(404, "EntryNotFound", "Entry not found")
        content = commit["files"][path]
        return content, {"ETag": f'"{self._hash(path, content)}"', "X-Repo-Commit": commit["id"]}

    @staticmethod
    def _hash(path: str, content: bytes | None) -> str | None:
        if content is None:
            return None
        if path.endswith(LARGE):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
