"""Models on Hugging Face's hub: "name@revision", and the commit that it is."""

from pathlib import Path

from mt4ssl_bench.errors import UpstreamError, first_line

OFFLINE = (
    "without network give a folder that holds config.json, model.safetensors and "
    "preprocessor_config.json"
)


def split_revision(argument: str) -> tuple[str, str]:
    """Return the name and the revision in "name@revision"; "" for none, and of a folder.

    Raises:
        UpstreamError: If "@" is followed by nothing.
    """
    if Path(argument).is_dir():
        return argument, ""
    name, at, revision = argument.partition("@")
    if at and not revision:
        raise UpstreamError(
            f"hf:{argument}: no revision after '@'; expected a branch, tag or commit, for example "
            f"hf:{name}@main"
        )
    return name, revision


def commit_of(name: str, revision: str) -> str:
    """Return the commit (40 hex digits) of a model's branch, tag or commit; "" is its main branch.

    It is looked up on the hub, and without network in the cache.

    Raises:
        UpstreamError: If there is no such model or revision, or neither hub nor cache has it.
    """
    from huggingface_hub import errors, hf_hub_download

    where = f"hf:{name}@{revision}" if revision else f"hf:{name}"
    try:
        config = Path(hf_hub_download(name, "config.json", revision=revision or None))
    except errors.RevisionNotFoundError:
        raise UpstreamError(
            f"{where}: no such revision; expected a branch, tag or commit of "
            f"https://huggingface.co/{name}/commits/main"
        ) from None
    except errors.LocalEntryNotFoundError:
        raise UpstreamError(
            f"{where}: not in the cache, and huggingface.co cannot be reached; {OFFLINE}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UpstreamError(
            f"{where}: no such model on huggingface.co, or it is private; {OFFLINE}"
        ) from None
    # a wrong id, a model without config.json, a proxy's answer: many kinds
    except Exception as error:  # noqa: BLE001
        raise UpstreamError(f"{where}: {first_line(error)[:200]}; {OFFLINE}") from None
    return config.parent.name  # snapshots/<commit>/config.json
