"""Uploads finished folders to the Hub, each file looked into before anything is sent."""

import logging
import shutil
import tempfile
from functools import partial
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi
from huggingface_hub.utils import validate_repo_id

from know_hf.hub.contents import check_files
from know_hf.hub.files import Upload, find_uploads
from know_hf.hub.readme import addressed, untouched
from know_hf.remote import HttpError, bounded, explained, persistently, public

logger = logging.getLogger(__name__)
# Shards of another size, and their index, go when new weights come.
_REPLACED = ["*.safetensors", "*.safetensors.index.json"]


def push(
    folder: str | Path,
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    dry_run: bool = False,
    overwrite_card: bool = False,
    main: str | Path | None = None,
) -> str:
    """Uploads an enriched checkpoint, all steps of a run, a predictor or a meta-data set.

    All steps of a run become revisions of one repository, ``x2``, ``x4`` …, each a plain
    ``from_pretrained(repo_id, revision="x4")``; ``main`` is the checkpoint that the run chose, or
    else the first step. A push that was interrupted continues: what the Hub already has is not sent again.

    Args:
        folder: A run, its ``enriched`` folder, one checkpoint, a predictor or a meta-data set.
        repo_id: ``user/name``; made if need be. A name alone is that of the token's user.
        commit_message: First line of the commits, instead of one that names what is sent.
        commit_description: What else the commits say.
        private: Whether a new repository is private; the account's default if None.
        token: Instead of the one that ``hf auth login`` stored (which True means, too). Never written anywhere.
        revision: Branch to write to instead of ``main``, made if need be; for single checkpoints.
        create_pr: Open a pull request instead of writing to the repository; for single checkpoints.
        dry_run: Say what would be sent, and send nothing.
        overwrite_card: Replace a README that the repository already has.
        main: Folder of the checkpoint that becomes ``main``, where that is none of the folder's own.

    Returns:
        Address of the repository or pull request; with ``dry_run`` its full name and the list of files.

    Raises:
        ConnectionError: If the Hub cannot be reached, or is too busy for longer than we wait.
        FileNotFoundError: If there is nothing to push in the folder.
        PermissionError: If there is no token, or it may not write there.
        ValueError: If a file holds a token, a path of this machine or a pickle, or an option does not fit.

    Example:
        >>> from know_hf.hub.push import push
        >>> push("runs/mine", "me/resnet-18-know", private=True)  # doctest: +SKIP
        'https://huggingface.co/me/resnet-18-know'
    """
    folder = Path(folder)
    _check_name(repo_id)
    repo_type, uploads = find_uploads(folder)
    if main is not None:
        uploads = [*find_uploads(Path(main))[1], *(upload for upload in uploads if upload.revision != "main")]
    if (create_pr or revision) and len(uploads) > 1:
        what = "A pull request" if create_pr else f"The revision {revision!r}"
        raise ValueError(f"{what} takes one checkpoint; push one of {', '.join(str(u.folder) for u in uploads)}.")
    if revision:
        uploads[0].revision = revision
    for upload in uploads:
        check_files(upload, token if isinstance(token, str) else None)
    try:
        repo_id = full_name(repo_id, token)
    except ValueError:
        if not dry_run:  # which needs no one's token
            raise
        repo_id = f"USER/{repo_id}"
    if dry_run:
        return "\n\n".join([f"To {repo_id}:", *map(str, uploads)])
    with bounded():
        url, api = ensure_repository(repo_id, repo_type, private, token), HfApi(token=token)
        with explained(repo_id):
            for upload in uploads:
                if upload.revision != "main" and not upload.revision.startswith("refs/"):
                    create = partial(api.create_branch, repo_id, repo_type=repo_type, exist_ok=True)
                    persistently(partial(create, branch=upload.revision))
                steps = [u.revision for u in uploads[1:]]
                first = uploads[0].folder.name if steps else ""
                said = (commit_message or f"Upload {upload.folder.name} with know-hf", commit_description)
                sent = _send(api, repo_id, repo_type, upload, steps, first, said, create_pr, overwrite_card)
                url = getattr(sent, "pr_url", None) or url
    return url


def _check_name(repo_id: str) -> None:
    """Raises ``ValueError`` if no repository can be called so; the library itself lets an end of line pass."""
    if not repo_id.isprintable():
        raise ValueError(f"Repo id {repo_id!r} holds characters that no name has.")
    validate_repo_id(repo_id)


def ensure_repository(
    repo_id: str, repo_type: str = "model", private: bool | None = None, token: bool | str | None = None
) -> str:
    """Makes a repository unless it is there; returns its address.

    Raises:
        ConnectionError, PermissionError: As [`push`].
        ValueError: If a repository cannot be called so.
    """
    _check_name(repo_id)
    repo_id = full_name(repo_id, token)
    with bounded(), explained(repo_id):
        create = HfApi(token=token).create_repo
        return str(persistently(lambda: create(repo_id, repo_type=repo_type, private=private, exist_ok=True)))


@bounded()
def full_name(repo_id: str, token: bool | str | None = None) -> str:
    """A repository's name with its user, who is the token's where none is named.

    Raises:
        ValueError: If none is named, and the Hub does not say whose token it is.
    """
    if "/" in repo_id:
        return repo_id
    try:
        user = persistently(lambda: HfApi(token=token).whoami()["name"])
    except (HttpError, OSError) as error:
        raise ValueError(
            f"The repository {repo_id!r} has no user, and whose token this is cannot be asked ({public(error)}): name "
            f"it USER/{repo_id}."
        ) from error
    return f"{user}/{repo_id}"


def _send(
    api: HfApi,
    repo_id: str,
    repo_type: str,
    upload: Upload,
    steps: list[str],
    main: str,
    said: tuple[str, str | None],
    create_pr: bool,
    card: bool,
) -> CommitInfo:
    files = list(upload.files)
    with tempfile.TemporaryDirectory(prefix="know-hf-") as temporary:
        staged = Path(temporary)
        keeps = not card and persistently(
            lambda: api.file_exists(repo_id, "README.md", repo_type=repo_type, revision=upload.revision)
        )
        if keeps and "README.md" in files and untouched(_readme(api, repo_id, repo_type, upload.revision)):
            keeps = False
        if keeps and "README.md" in files:
            logger.warning(f"{repo_id} keeps the README that it has (overwrite_card replaces it).")
            files.remove("README.md")
        for name in files:
            target = staged / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name == "README.md":
                text = (upload.folder / name).read_text(encoding="utf-8")
                target.write_text(addressed(text, repo_id, upload.revision, steps, main), encoding="utf-8")
            else:
                _link_or_copy(upload.folder / name, target)
        return persistently(
            lambda: api.upload_folder(
                repo_id=repo_id, repo_type=repo_type, folder_path=staged, revision=upload.revision,
                create_pr=create_pr, delete_patterns=None if repo_type == "dataset" else _REPLACED,
                commit_message=said[0], commit_description=said[1],
            )
        )  # fmt: skip


def _readme(api: HfApi, repo_id: str, repo_type: str, revision: str) -> str:
    with tempfile.TemporaryDirectory(prefix="know-hf-") as folder:
        path = persistently(
            lambda: api.hf_hub_download(repo_id, "README.md", repo_type=repo_type, revision=revision, local_dir=folder)
        )
        return Path(path).read_text(encoding="utf-8")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        try:
            target.symlink_to(source.resolve())
        except OSError:
            shutil.copyfile(source, target)
