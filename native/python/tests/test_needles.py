"""Models that know needles answer as the engine does, dense and dropped, where transformers runs them.

The answers were written by test/accuracy/engineAnswers.ts. Those of the model in packages/ are beside this file;
UNIPREFILL_ANSWERS (a folder of NAME.json) and UNIPREFILL_MODELS (a folder of NAME/) name more.
"""

import glob
import json
import os
import sys

import pytest
import torch
import uniprefill
from transformers import AutoModelForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
BATCH = 5
# Logits in bf16, computed in another order: an answer may part from the engine's only where it could not choose.
MARGIN = 0.75


def answered():
    found = [(os.path.join(HERE, "answers/needle-10m-deep.json"), os.path.join(HERE, "../../../packages/needle-10m-deep"))]
    folder, models = os.environ.get("UNIPREFILL_ANSWERS"), os.environ.get("UNIPREFILL_MODELS")
    if folder and models:
        for path in sorted(glob.glob(os.path.join(folder, "*.json"))):
            found.append((path, os.path.join(models, os.path.basename(path)[: -len(".json")])))
    else:
        print("UNIPREFILL_ANSWERS and UNIPREFILL_MODELS are not set: only the small model in packages/ is asked", file=sys.stderr)
    return found


def parted(model, prompts, answers, rows):
    """Asks prompts of one length in batches. Returns how many answers part from the engine's where it was sure, and where it was not,
    and the rows that selections left."""
    sure, unsure, kept = 0, 0, []
    for begin in range(0, len(prompts), BATCH):
        ids = torch.tensor(prompts[begin : begin + BATCH], device=model.device)
        expected = answers[begin : begin + BATCH]
        longest = max(map(len, expected))
        out = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest, min_new_tokens=longest, do_sample=False,
            return_dict_in_generate=True, output_logits=True,
        )  # fmt: skip
        for b, wanted in enumerate(expected):
            told = out.sequences[b, ids.shape[1] :].tolist()
            at = next((i for i, token in enumerate(wanted) if told[i] != token), None)
            if at is not None:
                logits = out.logits[at][b]
                gap = float(logits[told[at]] - logits[wanted[at]])
                sure, unsure = (sure + 1, unsure) if gap > MARGIN else (sure, unsure + 1)
        if rows:
            kept += [list(each) for each in zip(*out.past_key_values.kept_lengths)]
    return sure, unsure, kept


@pytest.mark.parametrize("answers, directory", answered(), ids=lambda path: os.path.basename(path).replace(".json", ""))
def test_answers_are_the_engines(answers, directory, cuda):
    assert os.path.isdir(directory), f"{directory} is not there: UNIPREFILL_MODELS names the folder of models"
    with open(answers) as file:
        told = json.load(file)
    schedule, asked = told["schedule"], told["prompts"]
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).to(cuda).eval()
    # An answer ends with its line, whose token this may name.
    model.generation_config.eos_token_id = None
    prompts = [each["tokens"] for each in asked]
    dense = parted(model, prompts, [each["dense"]["tokens"] for each in asked], False)
    uniprefill.enable(model, schedule)
    dropped = parted(model, prompts, [each["dropped"]["tokens"] for each in asked], True)
    blocks = [
        abs(own - engine) / 64
        for kept, each in zip(dropped[2], asked)
        for own, engine in zip(kept, each["dropped"]["kept"][1:])
    ]
    name, n = os.path.basename(directory), len(asked)
    print(
        f"{name}: {n} prompts of {len(prompts[0])} tokens; parted from the engine where it was sure / unsure: dense {dense[0]} / {dense[1]}, "
        f"dropped {dropped[0]} / {dropped[1]}; {sum(each == 0 for each in blocks)} of {len(blocks)} selections of the engine's length, "
        f"the others off by at most {max(blocks):.0f} blocks"
    )
    assert dense[0] == 0 and dropped[0] == 0
    assert dense[1] <= n / 10 + 1 and dropped[1] <= n / 10 + 1
    assert max(blocks) <= 4
