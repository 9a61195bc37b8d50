"""Publishes a trained policy on the Hugging Face hub, once, when the run has ended.

transformers would create the repository before it trains and push every checkpoint. Here a run that could not push at
its end is refused at its beginning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vtagent.errors import ModelError, SettingsError, one_line


@dataclass(frozen=True)
class Hub:
    """Where a policy is published."""

    repository: str
    private: bool | None
    token: str | None

    @classmethod
    def of(cls, args: Any) -> Hub:
        """Read the settings, see that the hub knows this user, and keep transformers from pushing.

        Args:
            args: TRL's settings, with `push_to_hub`; it is turned off.

        Raises:
            SettingsError: The hub cannot be reached, or knows no user of this token.
        """
        from huggingface_hub import HfApi

        name = args.hub_model_id or Path(args.output_dir).name
        try:
            user = HfApi(token=args.hub_token).whoami()["name"]
        except Exception as error:  # the network and the hub raise many kinds
            raise SettingsError(
                f"push_to_hub: the hub does not answer, or knows no such user ({one_line(error, limit=200)}): log in "
                f"with `hf auth login`, or leave it out and give `hf upload {name} {args.output_dir}/policy` afterwards"
            ) from error
        args.push_to_hub = False
        return cls(name if "/" in name else f"{user}/{name}", args.hub_private_repo, args.hub_token)

    def push(self, folder: Path) -> str:
        """Upload the folder of a policy.

        Returns:
            The address of the repository.

        Raises:
            ModelError: It could not be uploaded; the folder is as it was.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=self.token)
        try:
            address = api.create_repo(self.repository, private=self.private, exist_ok=True)
            api.upload_folder(repo_id=self.repository, folder_path=folder, commit_message="Trained with vtagent")
        except Exception as error:
            raise ModelError(
                f"{folder} could not be pushed ({one_line(error, limit=200)}): "
                f"try `hf upload {self.repository} {folder}`"
            ) from error
        return str(address)
