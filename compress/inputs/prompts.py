"""Prompts of a sentence encoder: which text is put before every other, and how long it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.core.errors import ConfigError, ModelError, did_you_mean


def choose_prompt(settings: Mapping[str, Any], file: Path, asked: str | None) -> tuple[str | None, str, list[str]]:
    """Chooses the prompt that is put before texts.

    Args:
        settings: of the folder, config_sentence_transformers.json.
        file: where they were read, for messages.
        asked: name of a prompt, or ``none``; None takes the default prompt.

    Returns:
        Its name (None for no prompt), its text, and sentences for the user.

    Raises:
        ConfigError: there is no prompt of this name.
        ModelError: the settings hold no prompts, or a default that is not among them.
    """
    given = settings.get("prompts") or {}
    if not isinstance(given, dict) or not all(isinstance(text, str | None) for text in given.values()):
        raise ModelError(
            f'\'{file}\' has prompts {json.dumps(given)[:60]}, not texts by name; write {{"query": "..."}}'
        )
    prompts = {str(name): str(text or "") for name, text in given.items()}
    written = {name: text for name, text in prompts.items() if text}
    names = ", ".join(sorted(written)) or "none"
    default = settings.get("default_prompt_name")
    if asked == "none":
        return None, "", ["no prompt is put before texts (--prompt none)"] if written else []
    if asked is not None:
        if asked not in prompts:
            hint = did_you_mean(asked, list(prompts))
            raise ConfigError(f"there is no prompt '{asked}'.{hint} Prompts of this model: {names}; none for no prompt")
        return asked, prompts[asked], [f"the prompt {prompts[asked]!r} is put before every text (--prompt {asked})"]
    if default is None:
        unused = [f"the model has prompts ({names}) and no default: none is used (--prompt NAME uses one)"]
        return None, "", unused if written else []
    # sentence-transformers always knows these two.
    if default not in prompts and default not in ("query", "document"):
        raise ModelError(
            f"'{file}' has default_prompt_name '{default}', which is not among its prompts ({names}); mend the file"
        )
    text = prompts.get(default, "")
    used = (
        f"the prompt {text!r} ('{default}', the model's default) is put before every text (--prompt none leaves it out)"
    )
    return default, text, [used] if text else []


def prompt_length(prompt: str, tokenizer: Any) -> int:
    """Returns the number of tokens of a prompt at the start of a row, special tokens before it included.

    Args:
        prompt: the text.
        tokenizer: the checkpoint's tokenizer.
    """
    ids = tokenizer(prompt)["input_ids"]
    return len(ids) - (1 if ids and ids[-1] in tokenizer.all_special_ids else 0)
