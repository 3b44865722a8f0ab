"""Checkpoints from other machines: resumed, checked, atomic, one download for many processes."""

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from diffviews.data.files import check_name
from diffviews.data.storage import resumable
from diffviews.data.storage.fetch import fetch
from diffviews.data.storage.hub import HubAddress, parse_hub_address, wanted_files
from diffviews.data.storage.s3_client import parse_s3_address, s3_client
from diffviews.errors import CheckpointError, ConfigError
from tests.file_server import Site, serve

CONTENT = random.Random(0).randbytes(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def quick_and_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DIFFVIEWS_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(resumable.time, "sleep", lambda _: None)
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def site() -> Iterator[Site]:
    with serve(Site({"/m/weights.bin": CONTENT})) as running:
        yield running


def leftovers(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache").rglob("*") if p.is_file() and not p.name.endswith(".lock"))


def ranges(site: Site) -> list[str | None]:
    return [headers.get("Range") for _, headers in site.requests]


def test_file_is_fetched_once_checked_and_kept_alone(site: Site, tmp_path: Path) -> None:
    path = fetch(f"{site.url}/m/weights.bin", digest=DIGEST, size=len(CONTENT))
    assert path.read_bytes() == CONTENT
    assert fetch(f"{site.url}/m/weights.bin", digest=DIGEST) == path
    assert len(site.requests) == 1
    assert leftovers(tmp_path) == ["weights.bin"]
    assert path.is_relative_to(tmp_path / "cache" / "checkpoints")


def test_broken_connection_goes_on_where_it_stopped(site: Site) -> None:
    site.drop_after = [1_000_000, 700_000]
    path = fetch(f"{site.url}/m/weights.bin", digest=DIGEST)
    assert path.read_bytes() == CONTENT
    assert ranges(site) == [None, "bytes=1000000-", "bytes=1700000-"]
    assert site.requests[1][1]["If-Range"] == '"one"'


def test_another_process_goes_on_where_one_gave_up(site: Site, tmp_path: Path) -> None:
    site.drop_after = [1_000_000] + [0] * 20
    with pytest.raises(CheckpointError, match=r"1,000,000 bytes are kept"):
        fetch(f"{site.url}/m/weights.bin")
    assert leftovers(tmp_path) == ["weights.bin.part", "weights.bin.part.json"]
    asked = len(site.requests)
    assert asked <= resumable.ATTEMPTS + 2
    site.drop_after = []
    assert fetch(f"{site.url}/m/weights.bin").read_bytes() == CONTENT
    assert ranges(site)[asked:] == ["bytes=1000000-"]


def test_changed_file_starts_over_instead_of_being_mixed(site: Site) -> None:
    site.drop_after = [1_000_000] + [0] * 20
    with pytest.raises(CheckpointError):
        fetch(f"{site.url}/m/weights.bin")
    newer = bytes(reversed(CONTENT))
    site.files["/m/weights.bin"], site.etag, site.drop_after = newer, '"two"', []
    assert fetch(f"{site.url}/m/weights.bin").read_bytes() == newer


def test_server_without_ranges_starts_over(site: Site) -> None:
    site.ranges, site.drop_after = False, [2_000_000]
    assert fetch(f"{site.url}/m/weights.bin", digest=DIGEST).read_bytes() == CONTENT


def test_server_without_versions_starts_over(site: Site) -> None:
    site.etag, site.drop_after = None, [2_000_000]
    assert fetch(f"{site.url}/m/weights.bin", digest=DIGEST).read_bytes() == CONTENT
    assert ranges(site) == [None, None]


def test_whole_part_is_not_fetched_again(site: Site, tmp_path: Path) -> None:
    path = fetch(f"{site.url}/m/weights.bin")
    path.rename(path.with_name("weights.bin.part"))
    note = {"version": '"one"', "total": len(CONTENT)}
    path.with_name("weights.bin.part.json").write_text(json.dumps(note))
    assert fetch(f"{site.url}/m/weights.bin", digest=DIGEST).read_bytes() == CONTENT
    assert len(site.requests) == 1


def test_part_that_is_too_long_is_thrown_away(site: Site) -> None:
    path = fetch(f"{site.url}/m/weights.bin")
    path.unlink()
    path.with_name("weights.bin.part").write_bytes(CONTENT + b"more")
    path.with_name("weights.bin.part.json").write_text(json.dumps({"version": '"one"', "total": None}))
    assert fetch(f"{site.url}/m/weights.bin", digest=DIGEST).read_bytes() == CONTENT


@pytest.mark.parametrize("known", [{"digest": "0" * 64}, {"size": 5}], ids=["digest", "size"])
def test_another_file_than_expected_is_not_kept(site: Site, tmp_path: Path, known: dict) -> None:
    with pytest.raises(CheckpointError, match=r"weights\.bin has .* expected; it is not"):
        fetch(f"{site.url}/m/weights.bin", **known)
    assert leftovers(tmp_path) == []


def test_cut_short_file_without_a_length_is_told_by_its_size(site: Site, tmp_path: Path) -> None:
    site.lengths, site.drop_after = False, [1000, 0, 0, 0, 0, 0, 0, 0]
    with pytest.raises(CheckpointError, match=r"the connection ended early"):
        fetch(f"{site.url}/m/weights.bin", size=len(CONTENT))
    assert "weights.bin" not in leftovers(tmp_path)


def test_kept_file_that_was_damaged_is_not_used(site: Site) -> None:
    path = fetch(f"{site.url}/m/weights.bin", digest=DIGEST)
    path.write_bytes(CONTENT[:-1] + b"\0")
    with pytest.raises(CheckpointError, match=r"fetched earlier .* sha256"):
        fetch(f"{site.url}/m/weights.bin", digest=DIGEST)


def test_missing_file_is_said_at_once(site: Site) -> None:
    with pytest.raises(CheckpointError, match=r"404 .*check the address"):
        fetch(f"{site.url}/m/none.bin")
    assert len(site.requests) == 1


def test_busy_server_is_asked_again(site: Site) -> None:
    site.refuse = [503, 503]
    assert fetch(f"{site.url}/m/weights.bin").read_bytes() == CONTENT
    assert len(site.requests) == 3


def test_unreachable_server_is_a_sentence() -> None:
    with pytest.raises(CheckpointError, match=r"cannot be fetched: .* does not answer"):
        fetch("http://127.0.0.1:9/weights.bin")


def test_redirects_stay_secure(site: Site) -> None:
    site.redirect = {"/good": f"{site.url}/m/weights.bin", "/bad": "http://example.org/weights.bin", "/ftp": "ftp://x/y"}
    assert fetch(f"{site.url}/good").read_bytes() == CONTENT
    for hostile in ("/bad", "/ftp"):
        with pytest.raises(CheckpointError, match="is not fetched: only https"):
            fetch(f"{site.url}{hostile}")


@pytest.mark.parametrize("address", ["http://example.org/x.bin", "http://127.0.0.1.example.org/x", "https:///x.bin"])
def test_insecure_address_is_refused(address: str) -> None:
    with pytest.raises(CheckpointError, match="is not fetched"):
        fetch(address)


def test_secrets_in_an_address_are_not_shown(site: Site) -> None:
    for address in ("/none?token=hunter2", "/none"):
        url = f"{site.url}{address}"
        url = url if "token" in address else url.replace("http://", "http://user:hunter2@")
        with pytest.raises(CheckpointError) as caught:
            fetch(url)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["%2e%2e", "..%5cx", "a%0ab"])
def test_name_in_an_address_cannot_lead_elsewhere(site: Site, name: str) -> None:
    with pytest.raises(CheckpointError, match="not allowed"):
        fetch(f"{site.url}/m/{name}")


def test_two_processes_fetch_once(site: Site, tmp_path: Path) -> None:
    site.pause = 0.5
    script = (
        "import sys, tqdm, filelock; from diffviews.data.storage.fetch import fetch; print('ready', flush=True); "
        "sys.stdin.readline(); print(fetch(sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, f"{site.url}/m/weights.bin"]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    paths = {process.communicate()[0] for process in running}
    assert len(paths) == 1
    assert Path(paths.pop().strip()).read_bytes() == CONTENT
    assert len(site.requests) == 1


def test_local_path_is_itself_and_checked(tmp_path: Path) -> None:
    file = tmp_path / "w.bin"
    file.write_bytes(b"abc")
    assert fetch(file) == file
    assert fetch(tmp_path) == tmp_path
    with pytest.raises(CheckpointError, match="3 bytes where 4"):
        fetch(file, size=4)
    with pytest.raises(CheckpointError, match="does not exist"):
        fetch(tmp_path / "none")


# S3 and R2 ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    values = {
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
        "R2_ACCESS_KEY_ID": "a", "R2_SECRET_ACCESS_KEY": "b", "R2_ACCOUNT_ID": "account",
        "MLFLOW_S3_ENDPOINT_URL": s3_endpoint,
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket="models")
    for key in ("w/weights.safetensors", "pipe/unet/model.safetensors", "pipe/unet/model.bin", "pipe/unet/config.json"):
        client.put_object(Bucket="models", Key=key, Body=CONTENT)
    client.put_object(Bucket="models", Key="pipe/model_index.json", Body=b"{}")
    client.put_object(Bucket="models", Key="bad/../../x.safetensors", Body=b"x")
    return "models"


@pytest.mark.parametrize("scheme", ["s3://models", "r2://models", "r2://models@account.r2.cloudflarestorage.com"])
def test_object_is_fetched_from_any_s3(bucket: str, scheme: str) -> None:
    path = fetch(f"{scheme}/w/weights.safetensors", digest=DIGEST)
    assert path.name == "weights.safetensors"
    assert path.read_bytes() == CONTENT


def test_object_is_resumed(bucket: str, tmp_path: Path) -> None:
    first = fetch("s3://models/w/weights.safetensors")
    etag = s3_client().head_object(Bucket="models", Key="w/weights.safetensors")["ETag"]
    first.unlink()
    first.with_name(first.name + ".part").write_bytes(CONTENT[:1000] + b"\0" * 1000)  # shows that it is kept
    first.with_name(first.name + ".part.json").write_text(json.dumps({"version": etag, "total": len(CONTENT)}))
    resumed = fetch("s3://models/w/weights.safetensors").read_bytes()
    assert resumed == CONTENT[:1000] + b"\0" * 1000 + CONTENT[2000:]
    first.unlink()
    first.with_name(first.name + ".part").write_bytes(b"\0" * 2000)
    first.with_name(first.name + ".part.json").write_text(json.dumps({"version": '"old"', "total": len(CONTENT)}))
    assert fetch("s3://models/w/weights.safetensors").read_bytes() == CONTENT


def test_prefix_becomes_a_folder_without_pickled_twins(bucket: str) -> None:
    folder = fetch("s3://models/pipe")
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")
    assert files == ["model_index.json", "unet/config.json", "unet/model.safetensors"]


def test_missing_object_forbidden_names_and_missing_keys_are_sentences(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="neither an object nor a prefix"):
        fetch("s3://models/none.bin")
    with pytest.raises(CheckpointError, match="no bucket 'nobucket'"):
        fetch("s3://nobucket/none.bin")
    with pytest.raises(CheckpointError, match="not allowed"):
        fetch("s3://models/bad")
    monkeypatch.delenv("R2_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="R2_SECRET_ACCESS_KEY"):
        fetch("r2://models/w/weights.safetensors")


def test_dead_store_is_a_sentence(monkeypatch: pytest.MonkeyPatch, bucket: str) -> None:
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="cannot be reached"):
        fetch("s3://models/w/weights.safetensors")


def test_r2_endpoint_is_that_of_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_S3_ENDPOINT_URL", raising=False)
    for name in ("R2_ACCESS_KEY_ID", "R2_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "k")
    monkeypatch.setenv("R2_ACCOUNT_ID", "mine")
    assert s3_client("r2").meta.endpoint_url == "https://mine.r2.cloudflarestorage.com"
    assert s3_client("r2", "theirs").meta.endpoint_url == "https://theirs.r2.cloudflarestorage.com"
    config = s3_client("r2").meta.config
    assert config.request_checksum_calculation == config.response_checksum_validation == "when_required"


@pytest.mark.parametrize(
    "text", ["s3://", "s3:///key", "r2://b@evil.example.org/k", "s3://b@a.r2.cloudflarestorage.com/k", "s3://B ucket/k"]
)
def test_malformed_store_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a store"):
        parse_s3_address(text)


# Hugging Face -------------------------------------------------------------------------------------


def test_hub_address_is_read_in_all_its_forms() -> None:
    assert parse_hub_address("hf:a/b") == HubAddress("a/b")
    assert parse_hub_address("hf:a/b@v1/unet/x.bin") == HubAddress("a/b", "unet/x.bin", "v1")
    assert parse_hub_address("hf:tianweiy/DMD2/model/x") == HubAddress("tianweiy/DMD2", "model/x")
    assert str(parse_hub_address("hf:a/b@v1/x")) == "hf:a/b@v1/x"
    for wrong in ("hf:a", "hf:", "hf:a b/c", "hf:a/..", "hf:../b"):
        with pytest.raises(ConfigError):
            parse_hub_address(wrong)
    with pytest.raises(CheckpointError, match="not allowed"):
        parse_hub_address("hf:a/b/x/../../y")


def test_hub_address_with_a_password_is_refused_without_repeating_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://ada:planted@127.0.0.1:9")
    with pytest.raises(ConfigError, match="set HF_TOKEN") as refusal:
        fetch("hf:nobody/nothing")
    assert "planted" not in str(refusal.value)


def test_unreachable_hub_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"hf:a/b/x\.bin cannot be fetched"):
        fetch("hf:a/b/x.bin")


COMMIT = "c" * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    names = ["model_index.json", "top.safetensors", "unet/config.json", "unet/w.safetensors", "unet/w.bin", "x.bin"]
    listing = {
        "id": "owner/model",
        "sha": COMMIT,
        "siblings": [{"rfilename": name} for name in names],
        "private": False, "downloads": 0, "likes": 0, "tags": [],
    }  # fmt: skip
    tree = [{"type": "file", "path": name, "size": 3, "oid": "d" * 40} for name in names]
    files = {f"/api/models/owner/model{suffix}": json.dumps(listing).encode() for suffix in ("", "/revision/main")}
    files |= {f"/api/models/owner/model/revision/{COMMIT}": json.dumps(listing).encode()}
    for revision in ("main", COMMIT):
        files[f"/api/models/owner/model/tree/{revision}?recursive=true&expand=false"] = json.dumps(tree).encode()
        files |= {f"/owner/model/resolve/{revision}/{name}": b"abc" for name in names}
    with serve(Site(files, headers={"X-Repo-Commit": COMMIT})) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        yield running


def test_file_and_folder_come_from_the_hub(hub: Site, tmp_path: Path) -> None:
    file = fetch("hf:owner/model/x.bin", tmp_path / "hub", digest=hashlib.sha256(b"abc").hexdigest())
    assert file.read_bytes() == b"abc"
    folder = fetch("hf:owner/model", tmp_path / "hub")
    files = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())
    assert [name for name in files if name != "x.bin"] == ["model_index.json", "unet/config.json", "unet/w.safetensors"]
    with pytest.raises(CheckpointError, match="sha256"):
        fetch("hf:owner/model/x.bin", tmp_path / "hub", digest="0" * 64)
    with pytest.raises(CheckpointError, match="neither a file nor a folder"):
        fetch("hf:owner/model/none", tmp_path / "hub")
    with pytest.raises(CheckpointError, match="the hub answers 404"):
        fetch("hf:owner/other", tmp_path / "hub")


def test_wanted_files_are_safe_plain_and_not_twice() -> None:
    names = [
        "README.md", ".gitattributes", "model_index.json", "v1-5-pruned.safetensors", "v1-5-pruned.ckpt",
        "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors", "tokenizer/merges.txt", "vae/diffusion_pytorch_model.bin",
        "text_encoder/model.fp16.safetensors", "optimizer.pkl",
    ]  # fmt: skip
    assert wanted_files(names) == [
        "model_index.json", "text_encoder/model.fp16.safetensors", "tokenizer/merges.txt", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin",
    ]  # fmt: skip
    assert wanted_files(["README.md", "config.json"]) == []
    assert wanted_files(["w.safetensors", "w.bin"]) == ["w.safetensors"]


@pytest.mark.parametrize("name", ["", "/a", "a/..", "../a", "a//b", "a\\b", "C:/a", "a\nb", "x" * 1001])
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="not allowed"):
        check_name(name, CheckpointError)
