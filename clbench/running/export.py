"""Export a saved learner: as one plain Hugging Face model folder, and to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

import transformers

from clbench.answering.asker import generation_config
from clbench.atomic import make_folder, write_folder_atomically
from clbench.data.tasks import Example
from clbench.errors import ClbenchError, one_line
from clbench.model.backbone import Backbone
from clbench.records.record import Record
from clbench.running.plain_folder import closes_prompts, longest_answer_of, save_tokenizer, write_card
from clbench.running.saved_learner import LEARNER_FILE, RECORD_FILE, STATE_FILE, SavedLearner

KEPT_BACK = (LEARNER_FILE, RECORD_FILE, STATE_FILE)  # old training rows and paths of this machine among them


def check_exportable(saved: SavedLearner) -> None:
    """Check that others get a learner's answers from its weights alone.

    Raises:
        ClbenchError: they do not; the message says why.
    """
    if saved.beyond_weights:
        raise ClbenchError(
            f"a learner of method '{saved.spec.method}' is no plain model and no plain PEFT adapter: {saved.beyond_weights}; "
            f"`clbench predict` and `clbench.load_learner` use it as it is"
        )
    if closes_prompts(saved.learner.backbone):
        raise ClbenchError(
            f"the tokenizer of backbone '{saved.learner.backbone.name}' closes prompts, too, by its end token, which clbench "
            f"takes away and plain transformers does not; name a copy of the backbone whose tokenizer does not with --backbone"
        )


def export_merged(saved: SavedLearner, record: Record, question: Example | None, folder: Path) -> None:
    """Write a learner as one model of its backbone's architecture; from then on it has nothing on its backbone.

    In the folder are the model, the tokenizer with the prompt's form as its chat template, the way of generating, and a card.

    Args:
        question: as `write_card` takes it.

    Raises:
        ClbenchError: the weights alone do not answer as the learner does, or cannot take up its adapter, or the folder is in use.
    """
    check_exportable(saved)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ClbenchError(f"'{folder}' is there already; name another folder, or remove it")
    make_folder(folder.parent)
    learner, prompts = saved.learner, list(saved.prompts.values())
    learner.attached.fold()

    def write(place: Path) -> None:
        model = learner.model
        longest = longest_answer_of(learner.settings, prompts)
        model.generation_config = whole_generation(learner.backbone, longest)
        model.save_pretrained(place)
        save_tokenizer(learner.backbone, learner.settings, place)
        write_card(place, "model", record, learner, prompts, question)

    write_folder_atomically(folder, write)


def whole_generation(backbone: Backbone, longest: int) -> transformers.GenerationConfig:
    """Return how clbench lets a backbone answer, as plain transformers reads it from the model's folder."""
    config, own = generation_config(backbone), backbone.model.generation_config
    config.bos_token_id, config.forced_bos_token_id = own.bos_token_id, own.forced_bos_token_id
    config.max_new_tokens = longest
    return config


def check_repository(name: str) -> None:
    """Check that a text can name a repository on the hub.

    Raises:
        ClbenchError: it cannot.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ClbenchError(f"--push takes OWNER/NAME, not '{name}': {one_line(error)}") from None
    if "/" not in name:
        raise ClbenchError(f"--push takes OWNER/NAME, not '{name}'")


def push(folder: Path, name: str, public: bool = False) -> str:
    """Upload a folder to a repository on the hub, which is made if it is not there, private unless `public`; return its address.

    What only clbench reads of a saved learner stays here: it holds old training rows.

    Raises:
        ClbenchError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    api = HfApi(library_name="clbench")
    try:
        address = api.create_repo(name, private=not public, exist_ok=True)
        message = "Upload a learner of clbench"
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=message, ignore_patterns=list(KEPT_BACK))
    except LocalTokenNotFoundError:
        raise ClbenchError(f"'{name}' cannot be pushed to: nobody is logged in; `hf auth login`") from None
    except OfflineModeIsEnabled:
        raise ClbenchError(f"'{name}' cannot be pushed to: HF_HUB_OFFLINE is set") from None
    except (HfHubHTTPError, OSError) as error:
        raise ClbenchError(f"'{name}' cannot be pushed to: {one_line(error)}") from error
    return str(address)
