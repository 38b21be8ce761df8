"""Clean data files for the audit: the toy task's documents, and sentences of made-up history."""

import json
import random

from megatron_longrlvr.config.task import ToyTaskConfig
from megatron_longrlvr.data.prompt_format import render_prompt
from megatron_longrlvr.data.toy_task import GIFTS, PEOPLE, ToyTask

NUM_FACTS = 6


def toy_records(split, num_records):
    """verl's schema, without an instruction."""
    task = ToyTask(ToyTaskConfig(kind="toy", split=split))
    records = []
    for index in range(num_records):
        example = task.example(index)
        text = render_prompt(chunks=example.chunks, question=example.question, instruction="")
        records.append(
            {
                "prompt": [{"role": "user", "content": text}],
                "data_source": "toy",
                "reward_model": {"ground_truth": example.answer},
                "extra_info": {"ref_chunks": list(example.evidence_chunk_ids), "index": index},
            }
        )
    return records


def text_record(seed):
    """The plain schema: six facts, a question about one of them, the answer in that one alone."""
    draw = random.Random(f"history/{seed}")
    people, things = draw.sample(PEOPLE, 3 * NUM_FACTS), draw.sample(GIFTS, 3 * NUM_FACTS)
    facts = list(zip(people[::3], people[1::3], people[2::3], things[::3], strict=True))
    asked = draw.randrange(NUM_FACTS)
    giver, receiver, witness, thing = facts[asked]
    return {
        "id": f"history-{seed}",
        "chunks": [
            f"{a.title()} sold the {d} that {b.title()} had made, and {c.title()} wrote it down "
            f"beside the {e} and the {f}."
            for (a, b, c, d), e, f in zip(facts, things[1::3], things[2::3], strict=True)
        ],
        "question": f"Whose {thing} did {giver.title()} sell, so that {witness.title()} knew?",
        "answer": f"It was made by {receiver.title()}",
        "evidence": [asked],
    }


def write_lines(path, records):
    """One JSON record a line; a text stands for a line of its own."""
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path
